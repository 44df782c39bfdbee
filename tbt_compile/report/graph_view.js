// One graph in its box: what is open, where the edges go, and how keys move through it.

class GraphView {
  constructor(graph, view, details) {
    this.view = view;
    this.details = details;
    this.graph = graph;
    this.zoom = 1;
    const { root, leaves } = treeOf(graph);
    this.root = root;
    this.leaves = leaves;
    this.nodes = new Map();
    this.small = graph.operations.length <= SMALL;
    this.edges = drawing("svg", { "aria-hidden": "true", width: 1, height: 1 });
    this.tree = element("ul", { role: "tree", "aria-label": "Modules and operations in the order of execution" });
    this.canvas = element("div", { class: "canvas" }, this.tree, this.edges);
    this.canvas.addEventListener("keydown", (event) => this.press(event));
    this.canvas.addEventListener("click", (event) => this.click(event));
    this.canvas.addEventListener("focusin", (event) => this.focused(event.target));
    view.replaceChildren(this.canvas);
    this.tree.append(this.build(root));
    this.nodes.get(root).tabIndex = 0;
    this.draw();
  }

  build(item) {
    const single = isSingle(item);
    const leaf = item.kind === "operation" || single;
    const operation = item.operation || (single ? item.items[0].operation : null);
    const node = element("li", { role: "treeitem", tabindex: -1, class: leaf ? "operation" : "module", "aria-level": item.depth });
    node.item = item;
    this.nodes.set(item, node);
    const label = single ? `${shortName(item)}: ${operation.label}` : item.kind === "module" ? shortName(item) || item.detail : item.name;
    const head = element("div", { class: "head" });
    if (!leaf) head.append(element("span", { class: "caret", "aria-hidden": "true" }, "▸"));
    if (operation) head.append(...operation.quantizers.map((each) => chip(`${each.operand} ${each.encoding}`, each.category, each.why)));
    head.append(element("span", {}, label));
    const kind = leaf ? operation.shape : item.kind === "module" && shortName(item) ? item.detail : "";
    head.append(element("span", { class: "kind" }, kind));
    if (!leaf) head.append(...Object.entries(item.counts).map(([category, count]) => chip(`${count} ${CATEGORY[category].name}`, category)));
    node.append(head);
    const spoken = [...head.querySelectorAll("span:not(.caret)")].map((part) => part.textContent).filter(Boolean);
    node.setAttribute("aria-label", spoken.join(", "));
    if (!leaf) {
      node.setAttribute("aria-expanded", "false");
      if (opensAtFirst(item, this.small)) this.open(item);
    }
    return node;
  }

  open(item) {
    const node = this.nodes.get(item);
    if (!node || !node.hasAttribute("aria-expanded")) return;
    if (!node.querySelector(":scope > ul")) {
      node.append(element("ul", { role: "group" }, ...item.items.map((child) => this.build(child))));
    }
    node.querySelector(":scope > ul").hidden = false;
    node.setAttribute("aria-expanded", "true");
    node.querySelector(".caret").textContent = "▾";
  }

  close(item) {
    const node = this.nodes.get(item);
    node.querySelector(":scope > ul").hidden = true;
    node.setAttribute("aria-expanded", "false");
    node.querySelector(".caret").textContent = "▸";
  }

  isOpen(item) { return this.nodes.has(item) && this.nodes.get(item).getAttribute("aria-expanded") === "true"; }

  toggle(item) {
    if (this.isOpen(item)) this.close(item); else this.open(item);
    this.draw();
  }

  // What stands for an item: itself, or the outermost closed box around it.
  standIn(item) {
    let shown = item;
    for (let each = item.parent; each; each = each.parent) if (!this.isOpen(each)) shown = each;
    return shown;
  }

  visible() {
    return [...this.tree.querySelectorAll("li")].filter((node) => !node.parentElement.closest("ul[hidden]"));
  }

  rect(node) {
    const box = node.querySelector(":scope > .head").getBoundingClientRect();
    const origin = this.canvas.getBoundingClientRect();
    const at = (value, from) => (value - from) / this.zoom;
    return {
      left: at(box.left, origin.left), right: at(box.right, origin.left),
      top: at(box.top, origin.top), bottom: at(box.bottom, origin.top),
    };
  }

  draw() {
    const pairs = new Map();
    this.graph.operations.forEach((operation, index) => {
      const to = this.standIn(this.leaves[index]);
      for (const input of operation.inputs) {
        const from = this.standIn(this.leaves[input]);
        if (from !== to) pairs.set(`${from.key} ${to.key}`, [from, to]);
      }
    });
    const arrow = drawing("marker", { id: "arrow", viewBox: "0 0 8 8", refX: 7, refY: 4, markerWidth: 8, markerHeight: 8, markerUnits: "userSpaceOnUse", orient: "auto-start-reverse" },
      drawing("path", { d: "M0 0L8 4L0 8z" }));
    const boxes = new Map();
    const boxOf = (item) => {
      if (!boxes.has(item)) boxes.set(item, this.rect(this.nodes.get(item)));
      return boxes.get(item);
    };
    const paths = [...pairs.values()].map(([from, to]) => {
      const path = drawing("path", { class: "edge", d: edgePath(boxOf(from), boxOf(to)), "marker-end": "url(#arrow)" });
      path.ends = [from, to];
      return path;
    });
    this.edges.replaceChildren(drawing("defs", {}, arrow), ...paths);
    this.resize();
  }

  resize() {
    this.canvas.style.transform = `scale(${this.zoom})`;
  }

  setZoom(zoom) {
    this.zoom = Math.max(0.25, Math.min(3, zoom));
    this.resize();
    this.view.dispatchEvent(new CustomEvent("zoomed", { detail: this.zoom }));
  }

  focused(node) {
    if (!node.item) return;
    this.tree.querySelectorAll("[tabindex='0']").forEach((other) => { other.tabIndex = -1; });
    node.tabIndex = 0;
    const shown = node.item;
    for (const path of this.edges.querySelectorAll(".edge")) path.classList.toggle("near", path.ends.includes(shown));
    this.describe(shown);
  }

  describe(item) {
    const operation = item.operation || (isSingle(item) ? item.items[0].operation : null);
    const where = item.kind === "module" ? item.name || "the whole model" : item.parent.name || "the whole model";
    const lines = [element("strong", {}, operation ? operation.label : item.kind === "run" ? item.name : `${item.detail}`),
      ` of ${where}${operation && operation.shape ? `, result ${operation.shape}` : ""}`];
    const reasons = (operation ? operation.quantizers : []).map((each) =>
      element("div", {}, chip(`${each.operand} ${each.encoding}`, each.category), ` ${reason(each)}`));
    this.details.replaceChildren(element("div", {}, ...lines), ...reasons);
  }

  click(event) {
    const head = event.target.closest(".head");
    if (!head) return;
    const node = head.parentElement;
    node.focus({ preventScroll: true });
    if (node.hasAttribute("aria-expanded")) this.toggle(node.item);
  }

  press(event) {
    const node = event.target.closest("li");
    if (!node || event.ctrlKey || event.metaKey || event.altKey || event.shiftKey) return;
    const item = node.item;
    const opens = node.hasAttribute("aria-expanded");
    const all = this.visible();
    const at = all.indexOf(node);
    const go = (target) => target && target.focus();
    const actions = {
      ArrowDown: () => go(all[at + 1]),
      ArrowUp: () => go(all[at - 1]),
      Home: () => go(all[0]),
      End: () => go(all[all.length - 1]),
      ArrowRight: () => { if (!opens) return; if (this.isOpen(item)) go(all[at + 1]); else this.toggle(item); },
      ArrowLeft: () => { if (opens && this.isOpen(item)) this.toggle(item); else if (item.parent) go(this.nodes.get(item.parent)); },
      Enter: () => { if (opens) this.toggle(item); },
      " ": () => { if (opens) this.toggle(item); },
    };
    if (!actions[event.key]) return;
    event.preventDefault();
    actions[event.key]();
  }
}

// Straight between neighbours, else an arc on the left.
function edgePath(from, to) {
  const gap = to.top - from.bottom;
  if (gap >= 0 && gap < 30 && Math.abs(from.left - to.left) < 70) {
    const x = Math.max(from.left, to.left) + 14;
    return `M${x} ${from.bottom}L${x} ${to.top}`;
  }
  const start = (from.top + from.bottom) / 2;
  const end = (to.top + to.bottom) / 2;
  const x = Math.min(from.left, to.left) - 8 - Math.min(34, Math.abs(end - start) * 0.05);
  return `M${from.left} ${start}C${x} ${start} ${x} ${end} ${to.left} ${end}`;
}

// The category of a quantizer and why; many reasons begin with it.
function reason(quantizer) {
  const { name } = CATEGORY[quantizer.category];
  return quantizer.why.startsWith(`${name}:`) ? quantizer.why : `${name}: ${quantizer.why}`;
}
