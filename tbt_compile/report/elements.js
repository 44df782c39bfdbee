"use strict";
// Elements are made by these functions only: all text of a report reaches the page as text, never as markup.

const SVG = "http://www.w3.org/2000/svg";

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

const element = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
const drawing = (tag, attributes = {}, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);
const section = (name) => document.getElementById(name);
const note = (text) => element("p", { class: "note" }, text);

// Adds why a section is empty, and returns whether it is.
function missing(name, value) {
  if (value.missing === undefined) return false;
  section(name).append(element("p", { class: "missing" }, value.missing));
  return true;
}

function scaled(count, step, units) {
  let power = 0;
  while (count >= step && power < units.length - 1) { count /= step; power += 1; }
  return count.toFixed(power === 0 || count >= 100 ? 0 : count >= 10 ? 1 : 2) + units[power];
}

const bytes = (count) => scaled(count, 1024, [" B", " KiB", " MiB", " GiB"]);
const amount = (count) => scaled(count, 1000, ["", " K", " M", " G", " T"]);
const microseconds = (value) => (value >= 1000 ? `${(value / 1000).toFixed(2)} ms` : `${value.toFixed(1)} µs`);

function bar(share, kind = "") {
  const node = element("div", { class: `bar ${kind}`.trim() });
  node.style.width = `${Math.max(0, Math.min(1, share)) * 100}%`;
  return node;
}

// The categories of quantizers, in the order in which they are counted: what the page calls them, and their class.
const CATEGORY = {
  "signed": { name: "signed", style: "signed" },
  "non-negative": { name: "non-negative", style: "non-negative" },
  "8-bit": { name: "8-bit", style: "eight-bit" },
  "none": { name: "full precision", style: "none" },
};

function chip(text, category, title) {
  return element("span", { class: `chip ${CATEGORY[category].style}`, title }, text);
}

// Calls `draw` when a node comes near the visible part of the page.
function whenSeen(node, draw) {
  const observer = new IntersectionObserver((entries) => {
    if (!entries.some((entry) => entry.isIntersecting)) return;
    observer.disconnect();
    draw();
  }, { rootMargin: "300px" });
  observer.observe(node);
}
