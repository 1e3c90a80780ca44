// What HTML and htmx leave open: controls that ask again by themselves, the keyboard in the tree, where the focus goes, and troubles.

const form = document.getElementById("ask");
const trouble = document.getElementById("trouble");
let waiting = 0;

const ask = (milliseconds) => {
  clearTimeout(waiting);
  waiting = setTimeout(() => form.requestSubmit(), milliseconds);
};

form.addEventListener("input", ({ target }) => {
  if (target.type !== "range") return;
  form.querySelector(`output[for="${target.id}"]`).value = target.value;
  ask(150);
});
form.addEventListener("change", ({ target }) => {
  if (target.id === "user" || target.id === "where") ask(0);
});

// The tree: a click opens a cell, arrows walk over cells, Enter opens.

const open = async (under) => {
  const tree = document.getElementById("tree");
  await htmx.ajax("GET", `/page/tree?${tree.dataset.query}&under=${under}`, { target: "#tree", swap: "innerHTML" });
  document.getElementById("crumb")?.focus();
};
document.addEventListener("click", ({ target }) => {
  const opened = target.closest("#tree [data-under]");
  if (opened) open(opened.dataset.under);
});

const place = (cell) => {
  const [level, begin, end] = cell.dataset.cell.split(",").map(Number);
  return { cell, level, begin, end };
};
const beside = (cells, from, key) => {
  const here = place(from);
  const at = (level) => cells.map(place).filter((each) => each.level === level).sort((a, b) => a.begin - b.begin);
  if (key === "ArrowRight") return at(here.level).find((each) => each.begin >= here.end);
  if (key === "ArrowLeft") return at(here.level).findLast((each) => each.end <= here.begin);
  if (key === "ArrowDown") return at(here.level + 1).find((each) => each.begin >= here.begin && each.end <= here.end);
  return at(here.level - 1).find((each) => each.begin <= here.begin && each.end >= here.end);
};
document.addEventListener("keydown", (event) => {
  const cell = event.target.closest?.("#tree .cell");
  if (!cell) return;
  if ((event.key === "Enter" || event.key === " ") && cell.dataset.under) {
    event.preventDefault();
    open(cell.dataset.under);
  }
  if (!event.key.startsWith("Arrow")) return;
  event.preventDefault();
  const next = beside([...document.querySelectorAll("#tree .cell")], cell, event.key);
  if (!next) return;
  cell.setAttribute("tabindex", "-1");
  next.cell.setAttribute("tabindex", "0");
  next.cell.focus();
});

// After a swap the focus stays where it was, or goes to the list; one cell of the tree can be reached by Tab.

let focused = "";
document.addEventListener("htmx:before:swap", () => {
  focused = document.activeElement?.id ?? "";
});
document.addEventListener("htmx:after:swap", () => {
  trouble.hidden = true;
  if (focused && !form.contains(document.activeElement)) {
    (document.getElementById(focused) ?? document.getElementById("list-1"))?.focus({ preventScroll: true });
  }
  document.querySelector("#tree .cell")?.setAttribute("tabindex", "0");
});

// Troubles: answers of the API's kind (JSON) and no answer at all become a sentence.

const tell = (text) => {
  trouble.textContent = text;
  trouble.hidden = false;
};
document.addEventListener("htmx:before:swap", (event) => {
  const { response, text } = event.detail.ctx;
  if (!response?.headers.get("content-type")?.startsWith("application/json")) return;
  event.preventDefault();
  tell(JSON.parse(text).error);
});
document.addEventListener("htmx:error", ({ detail }) => {
  if (detail.error?.name !== "AbortError") tell("The server does not answer; see whether semid serve still runs, then try again.");
});
