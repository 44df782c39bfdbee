// The section of the graph: the switch between before and after, zoom and pan.

function showGraph(graphs) {
  if (missing("graph", graphs)) return;
  const view = element("div", { class: "view", id: "graph-view" });
  const details = element("div", { id: "graph-details", "aria-live": "polite" }, "Choose a box to see what it is and why.");
  let current = null;
  const show = (which) => {
    const zoom = current ? current.zoom : 1;
    current = new GraphView(graphs[which], view, details);
    current.setZoom(zoom);
    switches.forEach((button) => button.setAttribute("aria-pressed", String(button.id === `graph-${which}`)));
  };
  const button = (text, id, act) => element("button", { type: "button", id, onclick: act }, text);
  const switches = [button("Before", "graph-before", () => show("before")), button("After", "graph-after", () => show("after"))];
  const percent = element("output", { id: "graph-zoom" }, "100%");
  view.addEventListener("zoomed", (event) => { percent.textContent = `${Math.round(event.detail * 100)}%`; });
  const zoom = (factor) => current.setZoom(factor === 0 ? 1 : current.zoom * factor);
  section("graph").append(
    note(`${graphs.note} Quantized at ${graphs.recipe}. Boxes are modules: Enter or a click opens one, arrow keys move, + - and 0 zoom, Shift with arrow keys pans.`),
    element("div", { class: "tools" }, ...switches, button("−", "zoom-out", () => zoom(0.8)), percent,
      button("+", "zoom-in", () => zoom(1.25)), button("100%", "zoom-reset", () => zoom(0)),
      ...Object.keys(CATEGORY).map((category) => chip(CATEGORY[category].name, category))),
    view, details);
  show("after");
  pan(view, zoom);
}

function pan(view, zoom) {
  view.addEventListener("wheel", (event) => {
    if (!event.ctrlKey) return;
    event.preventDefault();
    zoom(event.deltaY < 0 ? 1.1 : 1 / 1.1);
  }, { passive: false });
  view.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const steps = { ArrowLeft: [-60, 0], ArrowRight: [60, 0], ArrowUp: [0, -60], ArrowDown: [0, 60] };
    const factors = { "+": 1.25, "=": 1.25, "-": 0.8, "0": 0 };
    if (event.shiftKey && steps[event.key]) view.scrollBy(...steps[event.key]);
    else if (event.key in factors) zoom(factors[event.key]);
    else return;
    event.preventDefault();
  });
  let last = null;
  view.addEventListener("pointerdown", (event) => {
    if (event.pointerType !== "mouse" || event.button !== 0 || event.target.closest(".head")) return;
    last = [event.clientX, event.clientY];
    view.setPointerCapture(event.pointerId);
    view.classList.add("dragging");
  });
  view.addEventListener("pointermove", (event) => {
    if (!last) return;
    view.scrollBy(last[0] - event.clientX, last[1] - event.clientY);
    last = [event.clientX, event.clientY];
  });
  const drop = () => { last = null; view.classList.remove("dragging"); };
  view.addEventListener("pointerup", drop);
  view.addEventListener("pointercancel", drop);
}
