"use strict";
// A click on a heading sorts its table: ascending, descending, then in the report's own order again.
for (const table of document.querySelectorAll("main table")) {
  const body = table.tBodies[0];
  const original = [...body.rows];
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const next = { ascending: "descending", descending: "none" }[heading.ariaSort] ?? "ascending";
      headings.forEach((other) => other.removeAttribute("aria-sort"));
      if (next !== "none") heading.setAttribute("aria-sort", next);
      body.append(...(next === "none" ? original : sorted(original, column, next === "descending")));
    });
  });
}

// A table that is wider than its box says so, whenever the page is wide or narrow and once its section is opened.
for (const box of document.querySelectorAll(".scroll")) {
  const hint = document.createElement("p");
  hint.className = "hint";
  hint.textContent = "\u2192 scroll the table sideways for more columns";
  box.after(hint);
  const look = () => box.classList.toggle("more", box.scrollWidth - box.clientWidth - box.scrollLeft > 1);
  new ResizeObserver(look).observe(box);
  box.addEventListener("scroll", look);
}

function sorted(rows, column, descending) {
  const key = (row) => row.cells[column].dataset.value;
  const numeric = rows.every((row) => key(row) === "" || !Number.isNaN(number(key(row))));
  const compare = numeric ? (a, b) => number(a) - number(b) : (a, b) => a.localeCompare(b, "en");
  return [...rows].sort((a, b) => {
    const [one, other] = [key(a), key(b)];
    if (one === "" || other === "") return (one === "") - (other === ""); // what is missing comes last, either way
    return descending ? compare(other, one) : compare(one, other);
  });
}

function number(text) {
  return { inf: Infinity, "-inf": -Infinity }[text] ?? Number(text);
}
