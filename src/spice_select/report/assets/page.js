// Searches, filters and sorts the rows, which are in the page already; opens the row that the address names; saves ids.
"use strict";
(() => {
  const [list, query, filter, sort, reverse, count] =
    ["rows", "query", "filter", "sort", "reverse", "count"].map((id) => document.getElementById(id));
  const rows = [...list.children].map((element) => ({
    element,
    text: [...element.querySelectorAll("summary, :scope > .text")].map((part) => part.textContent).join("\n").toLowerCase(),
    values: JSON.parse(element.dataset.values), // in the order of the options of `sort`
  }));

  const order = (column, rising) => (one, other) => {
    const [a, b] = [one.values[column], other.values[column]];
    if (a === null || b === null) return (a === null) - (b === null); // in either order, rows without it come last
    return rising ? a - b : b - a;
  };

  const show = () => {
    const words = query.value.toLowerCase().split(/\s+/).filter(Boolean);
    const wanted = (row) => (filter.value === "all" || (row.values[0] !== null) === (filter.value === "picked"))
      && words.every((word) => row.text.includes(word));
    const rising = sort.selectedOptions[0].dataset.order === "rising";
    const found = rows.filter(wanted).sort(order(sort.selectedIndex, rising !== reverse.checked));
    for (const row of rows) row.element.hidden = true;
    for (const row of found) row.element.hidden = false;
    list.append(...found.map((row) => row.element));
    count.textContent = found.length === 1 ? "1 row." : found.length === 0 ? "No rows." : `${found.length.toLocaleString("en")} rows.`;
  };

  const open = () => {
    const row = rows.find(({ element }) => `#${element.id}` === window.location.hash);
    if (!row) return;
    if (row.element.hidden) {
      [query.value, filter.value] = ["", "all"];
      show();
    }
    row.element.open = true;
    row.element.firstElementChild.focus({ preventScroll: true });
    row.element.scrollIntoView();
  };

  for (const control of [query, filter, sort, reverse]) control.addEventListener("input", show);
  document.addEventListener("click", (event) => {
    const link = event.target.closest('a[href^="#row-"]');
    if (!link || link.hash !== window.location.hash) return;
    event.preventDefault(); // the same row again: no hashchange follows, and the browser would take the focus away
    open();
  });
  for (const button of document.querySelectorAll("button.ids")) {
    button.hidden = false;
    button.addEventListener("click", () => {
      const link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob([JSON.parse(button.dataset.ids).join("\n"), "\n"], { type: "text/plain" }));
      link.download = button.dataset.name;
      link.click();
      URL.revokeObjectURL(link.href);
    });
  }
  window.addEventListener("hashchange", open);
  document.getElementById("finder").hidden = false;
  show();
  open();
})();
