"use strict";
// Three comforts; the page is complete without them: hover texts at once and by touch, sorting, opening cells of the code tree.
(() => {
  const make = (name, attributes = {}, text = "") => {
    const element = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    element.textContent = text;
    return element;
  };

  // Hover texts: take the place of the browser's slow ones.
  const tip = make("div", { class: "tip", role: "status", hidden: "" });
  document.body.append(tip);
  const texts = new WeakMap();
  const adopt = (root) => root.querySelectorAll("svg title").forEach((title) => {
    texts.set(title.parentNode, title.textContent);
    title.parentNode.setAttribute("aria-label", title.textContent);
    title.remove();
  });
  const find = (node) => {
    for (; node && node !== document; node = node.parentNode) if (texts.has(node)) return node;
    return null;
  };
  const show = (node, x, y) => {
    tip.hidden = !node;
    if (!node) return;
    tip.textContent = texts.get(node);
    const box = tip.getBoundingClientRect();
    const left = Math.min(Math.max(12, x + 14), innerWidth - box.width - 12);
    const top = y + 18 + box.height > innerHeight ? y - box.height - 12 : y + 18;
    tip.style.left = `${Math.max(12, left)}px`;
    tip.style.top = `${Math.max(8, top)}px`;
  };
  adopt(document);
  document.addEventListener("pointermove", (event) => show(find(event.target), event.clientX, event.clientY));
  document.addEventListener("pointerdown", (event) => show(find(event.target), event.clientX, event.clientY));
  document.addEventListener("focusin", (event) => {
    const node = find(event.target);
    if (!node) return show(null);
    const box = node.getBoundingClientRect();
    show(node, box.left, box.bottom);
  });
  document.addEventListener("scroll", () => show(null), { passive: true, capture: true });
  document.addEventListener("keydown", (event) => event.key === "Escape" && show(null));

  // Light and dark: the system's choice until somebody presses the button.
  const isDark = () => (document.documentElement.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  const theme = make("button", { type: "button" }, isDark() ? "Light" : "Dark");
  theme.addEventListener("click", () => {
    document.documentElement.dataset.theme = isDark() ? "light" : "dark";
    theme.textContent = isDark() ? "Light" : "Dark";
  });
  document.querySelector("nav").append(theme);

  // Sorting: a column without a value sinks.
  document.querySelectorAll("th.sort").forEach((head) => {
    const button = make("button", { type: "button" }, head.textContent);
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const falls = head.getAttribute("aria-sort") !== "descending";
      head.parentNode.querySelectorAll("[aria-sort]").forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", falls ? "descending" : "ascending");
      const rows = head.closest("table").tBodies[0];
      const value = (row) => {
        const text = row.cells[head.cellIndex].dataset.value;
        return text === undefined ? (falls ? -Infinity : Infinity) : Number(text);
      };
      rows.append(...[...rows.rows].sort((a, b) => (falls ? value(b) - value(a) : value(a) - value(b)) || 0));
    });
  });

  // The code tree: open a cell. The same rules as `tree_chart.cells`, within an interval of items.
  const source = document.getElementById("tree-data");
  if (!source) return;
  const tree = JSON.parse(source.textContent);
  const place = document.getElementById("icicle");
  const crumbs = place.querySelector(".crumbs");
  const chart = place.querySelector("svg");
  const depth = tree.codes.length;
  const whole = [...chart.childNodes];
  const weight = (k) => (tree.weight.length ? tree.weight[k] : 1);
  const edge = [0];
  for (let k = 0; k < tree.titles.length; k++) edge.push(edge[k] + weight(k));
  const thousands = (n) => String(n).replace(/\B(?=(\d{3})+$)/g, "\u202f");

  const colourOf = (begin, end) => {
    const tally = new Map();
    for (let k = begin; k < end; k++) tally.set(tree.colour[k], (tally.get(tree.colour[k]) || 0) + 1);
    return [...tally].sort((a, b) => b[1] - a[1] || a[0] - b[0])[0];
  };
  const say = ([level, begin, end, merged]) => {
    const path = [];
    for (let l = 0; l <= level; l++) path.push(tree.codes[l][begin]);
    if (merged > 1) path[level] = `+${thousands(merged)} more codes`;
    const size = end - begin;
    let head = `${path.join(" ")} · ${thousands(size)} item${size === 1 ? "" : "s"}`;
    if (tree.colour.length) {
      const [slot, most] = colourOf(begin, end);
      head += ` · ${Math.round((100 * most) / size)}\u202f% ${tree.names[slot] || "other categories"}`;
    }
    const best = [...Array(size).keys()].map((k) => k + begin).sort((a, b) => weight(b) - weight(a) || a - b).slice(0, 5);
    return [head, ...best.map((k) => tree.titles[k]), ...(size > 5 ? [`+${thousands(size - 5)} more`] : [])].join("\n");
  };
  const cellsOf = (begin, end) => {
    const span = edge[end] - edge[begin] || 1;
    const out = [];
    let parents = [[begin, end]];
    for (let level = 0; level < depth; level++) {
      const opened = [];
      for (const [first, last] of parents) {
        let run = null;
        for (let from = first; from < last; ) {
          let to = from + 1;
          while (to < last && tree.codes[level][to] === tree.codes[level][from]) to++;
          if (tree.codes[level][from] >= 0) {
            if ((edge[to] - edge[from]) / span >= tree.narrow) {
              opened.push([from, to]);
              out.push([level, from, to, 1]);
            } else if (run) { run[2] = to; run[3]++; } else run = [level, from, to, 1];
          }
          from = to;
        }
        if (run) out.push(run);
      }
      parents = opened;
    }
    return out;
  };
  const shape = (name, attributes) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    return element;
  };
  const draw = (begin, end) => cellsOf(begin, end).map((cell) => {
    const [level, from, to, merged] = cell;
    const span = edge[end] - edge[begin] || 1;
    const wide = (edge[to] - edge[from]) / span;
    const high = merged > 1 ? (depth - level) * tree.row : tree.row;
    const box = { x: `${(100 * (edge[from] - edge[begin])) / span}%`, y: level * tree.row, width: `${100 * wide}%`, height: high - 1 };
    const slot = tree.colour.length ? colourOf(from, to)[0] : 0;
    const group = shape("g", { class: "cell", "data-cell": cell.join(",") });
    group.append(shape("rect", { class: merged > 1 ? "merged" : `f${slot} level${Math.min(level, 3)}`, ...box }));
    const text = merged > 1 ? `+${merged}` : String(tree.codes[level][from]);
    if (wide > 0.012 * text.length) {
      const frame = shape("svg", box);
      const label = shape("text", { class: wide < 0.034 * text.length ? "code tight" : "code", x: "50%", y: high / 2 + 4 });
      label.textContent = text;
      frame.append(label);
      group.append(frame);
    }
    texts.set(group, say(cell));
    group.setAttribute("aria-label", say(cell));
    return group;
  });
  const ready = () => chart.querySelectorAll(".cell").forEach((group) => {
    const [, begin, end] = group.dataset.cell.split(",").map(Number);
    if (end - begin < 2) return;
    group.classList.add("opens");
    group.setAttribute("tabindex", "0");
    group.setAttribute("role", "button");
  });
  const open = (cell) => {
    show(null);
    if (!cell) {
      chart.replaceChildren(...whole);
      crumbs.replaceChildren();
      return;
    }
    const [, begin, end] = cell;
    chart.replaceChildren(...draw(begin, end));
    ready();
    const back = make("button", { type: "button" }, "All items");
    back.addEventListener("click", () => open(null));
    crumbs.replaceChildren(back, ` › ${say(cell).split("\n")[0]}`);
  };
  const act = (target) => {
    const group = target.closest(".cell.opens");
    if (group) open(group.dataset.cell.split(",").map(Number));
  };
  place.classList.add("can-open");
  ready();
  chart.setAttribute("role", "group");
  chart.addEventListener("click", (event) => act(event.target));
  chart.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    act(event.target);
  });
})();
