// Completion of the condition: columns, then what fits the column, then the values it holds. Follows the ARIA combobox pattern.

const field = document.getElementById("where");
const list = document.getElementById("offers");
const columns = JSON.parse(field.dataset.columns);
const byName = new Map(columns.map((column) => [column.name, column]));
const shown = 8;
let offers = [];
let chosen = -1;

const isList = (column) => /list/.test(column.type);
const isText = (column) => column.values.length > 0 || /string/.test(column.type);
const named = (name) => (/^[a-z_][a-z0-9_]*$/i.test(name) ? name : `"${name.replaceAll('"', '""')}"`);
const quoted = (value) => `'${value.replaceAll("'", "''")}'`;

// What stands before the cursor -> [characters to replace, offers of {text, label, about}].
export const complete = (before) => {
  const value = before.match(/(?:list_contains\(\s*("(?:[^"]|"")*"|\w+)\s*,|("(?:[^"]|"")*"|\w+)\s*(?:=|!=|<>|like))\s*('(?:[^']|'')*)?$/i);
  if (value) {
    const column = byName.get((value[1] ?? value[2]).replace(/^"|"$/g, "").replaceAll('""', '"'));
    const typed = (value[3] ?? "").slice(1).replaceAll("''", "'").toLowerCase();
    const close = value[1] ? ")" : "";
    const values = (column?.values ?? []).filter((each) => each.toLowerCase().includes(typed));
    return [(value[3] ?? "").length, values.map((each) => ({ text: `${quoted(each)}${close} `, label: each, about: column.name }))];
  }
  if ((before.match(/'/g) ?? []).length % 2) return [0, []];
  const word = before.match(/\w*$/)[0];
  const rest = before.slice(0, before.length - word.length).trimEnd();
  if (rest && !/(?:\band|\bor|\bnot|\()$/i.test(rest)) {
    const joins = ["and ", "or "].filter((each) => each.startsWith(word.toLowerCase()));
    const isDone = /(?:'|\)|\d)$/.test(rest);
    return [word.length, isDone ? joins.map((text) => ({ text, label: text.trim(), about: "" })) : []];
  }
  const found = columns.filter((column) => column.name.toLowerCase().includes(word.toLowerCase()));
  return [word.length, found.map((column) => ({
    text: isList(column) ? `list_contains(${named(column.name)}, ` : `${named(column.name)} ${isText(column) ? "= " : "> "}`,
    label: column.name,
    about: column.low !== null ? `${column.low} to ${column.high}` : isList(column) ? "list" : column.type,
  }))];
};

const close = () => {
  list.hidden = true;
  chosen = -1;
  field.setAttribute("aria-expanded", "false");
  field.removeAttribute("aria-activedescendant");
};

const mark = (place) => {
  chosen = place;
  [...list.children].forEach((each, index) => each.setAttribute("aria-selected", String(index === place)));
  if (place < 0) return field.removeAttribute("aria-activedescendant");
  field.setAttribute("aria-activedescendant", `offer-${place}`);
  list.children[place].scrollIntoView({ block: "nearest" });
};

const show = () => {
  const [replaced, all] = complete(field.value.slice(0, field.selectionStart));
  offers = all.slice(0, shown).map((each) => ({ ...each, replaced }));
  if (!offers.length) return close();
  list.replaceChildren(...offers.map((each, index) => {
    const item = document.createElement("li");
    item.id = `offer-${index}`;
    item.setAttribute("role", "option");
    const about = document.createElement("small");
    about.textContent = each.about;
    item.append(each.label, about);
    return item;
  }));
  list.hidden = false;
  field.setAttribute("aria-expanded", "true");
  mark(-1);
};

const take = (place) => {
  const { text, replaced } = offers[place];
  const end = field.selectionStart;
  field.setRangeText(text, end - replaced, end, "end");
  field.focus();
  show();
};

field.addEventListener("input", show);
field.addEventListener("focus", show);
field.addEventListener("blur", close);
list.addEventListener("mousedown", (event) => {
  event.preventDefault(); // the field keeps the focus
  const item = event.target.closest("li");
  if (item) take([...list.children].indexOf(item));
});
field.addEventListener("keydown", (event) => {
  if (event.key === "ArrowDown" || event.key === "ArrowUp") {
    event.preventDefault();
    if (list.hidden) return show();
    const step = event.key === "ArrowDown" ? 1 : -1;
    mark((chosen + step + offers.length + (chosen < 0 && step < 0)) % offers.length);
  } else if (event.key === "Enter" && chosen >= 0) {
    event.preventDefault();
    take(chosen);
  } else if (event.key === "Enter") {
    close();
  } else if (event.key === "Tab" && chosen >= 0) {
    event.preventDefault();
    take(chosen);
  } else if (event.key === "Escape") {
    close();
  }
});
