// The graph as nested boxes: modules hold their operations in the order of execution, edges lie over them.

// Plain operations in a row, such as those that make a mask, are one box.
const RUN = 6;
const SMALL = 40;

// Items: {kind: "module" | "run" | "operation", key, name, detail, items, parent, operation, depth}
function treeOf(graph) {
  const modules = graph.modules.map(([name, type, parent], index) => ({
    kind: "module", key: `${parent}/${name}`, name, detail: type, items: [], caller: parent, index,
  }));
  const leaves = [];
  const placed = new Set([0]);
  const place = (index) => {
    if (placed.has(index)) return;
    placed.add(index);
    place(modules[index].caller);
    modules[modules[index].caller].items.push(modules[index]);
  };
  graph.operations.forEach((operation, index) => {
    place(operation.module);
    const leaf = { kind: "operation", key: `o${index}`, name: operation.label, detail: operation.shape, operation };
    leaves.push(leaf);
    modules[operation.module].items.push(leaf);
  });
  modules.forEach((module) => { module.items = grouped(module); });
  const finish = (item, parent, depth) => {
    Object.assign(item, { parent, depth });
    (item.items || []).forEach((child) => finish(child, item, depth + 1));
    item.counts = counts(item);
    item.signature = signature(item);
  };
  finish(modules[0], null, 1);
  return { root: modules[0], leaves };
}

function grouped(module) {
  if (module.items.every((item) => item.kind === "operation")) return module.items;
  const result = [];
  let run = [];
  const flush = () => {
    if (run.length < RUN) result.push(...run);
    else result.push({ kind: "run", key: `${module.key}+${result.length}`, name: `${run.length} operations`, detail: "", items: run });
    run = [];
  };
  for (const item of module.items) {
    const plain = item.kind === "operation" && item.operation.quantizers.length === 0 && item.operation.module !== 0;
    if (plain) run.push(item);
    else { flush(); result.push(item); }
  }
  flush();
  return result;
}

// A module that runs one operation is shown as that operation, by the name of the module.
const isSingle = (item) => item.kind === "module" && item.items.length === 1 && item.items[0].kind === "operation" && item.depth > 1;
const shortName = (item) => {
  const above = item.parent ? item.parent.name : "";
  return above && item.name.startsWith(`${above}.`) ? item.name.slice(above.length + 1) : item.name;
};

function counts(item) {
  if (item.kind === "operation") return tally(item.operation.quantizers.map((quantizer) => [quantizer.category, 1]));
  return tally(item.items.flatMap((child) => Object.entries(child.counts)));
}

function tally(pairs) {
  const sums = Object.fromEntries(Object.keys(CATEGORY).map((category) => [category, 0]));
  for (const [key, count] of pairs) sums[key] = (sums[key] || 0) + count;
  return Object.fromEntries(Object.entries(sums).filter(([, count]) => count));
}

function signature(item) {
  if (item.kind === "operation") return `${item.name}${JSON.stringify(item.operation.quantizers)}`;
  return `${item.detail}(${item.items.map((child) => child.signature).join(",")})`;
}

function opensAtFirst(item, small) {
  if (item.depth === 1) return true;
  if (item.kind !== "module" || isSingle(item)) return false;
  const before = item.parent.items.slice(0, item.parent.items.indexOf(item));
  if (before.some((other) => other.signature === item.signature)) return false;
  return small || item.items.some((child) => child.kind === "module");
}
