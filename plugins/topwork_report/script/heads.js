// Attention heads anywhere on the page, in a cell of a map or as a point: each opens its weights in the explorer.

/** Let the marks of attention heads open their attention head, where an explorer has it. */
function mountHeads() {
  const explorers = [...document.querySelectorAll(".explorer")].map((place) => place.explorer).filter((explorer) => explorer);
  if (!explorers.length) return;
  for (const drawing of document.querySelectorAll("svg.heat, svg.point-map")) {
    const marks = [...drawing.querySelectorAll("g[data-path]")];
    const opened = marks.filter((mark) => explorers.some((explorer) => explorer.findHead(mark.dataset.path, Number(mark.dataset.head))));
    if (!opened.length) continue;
    drawing.setAttribute("role", "group");
    const title = drawing.querySelector(":scope > title");
    if (title) drawing.setAttribute("aria-label", `${title.textContent}; each opens its attention`);
    for (const mark of opened) {
      mark.setAttribute("role", "button");
      mark.classList.add("opens");
      mark.setAttribute("aria-label", mark.querySelector("title")?.textContent || "attention head");
      const open = () => nearest(explorers, mark).showHead(mark.dataset.path, Number(mark.dataset.head));
      mark.addEventListener("click", open);
      mark.addEventListener("keydown", (event) => {
        if (event.key !== "Enter" && event.key !== " ") return;
        event.preventDefault();
        open();
      });
    }
    arrows(opened, columnsOf(opened));
  }
}

/** The explorer that has a mark's attention head: of the same stage, else the last before it, else the first. */
function nearest(explorers, mark) {
  const having = explorers.filter((explorer) => explorer.findHead(mark.dataset.path, Number(mark.dataset.head)));
  const section = mark.closest("section");
  return having.find((explorer) => explorer.place.closest("section") === section)
    || having.findLast((explorer) => explorer.place.compareDocumentPosition(mark) & Node.DOCUMENT_POSITION_FOLLOWING) || having[0];
}

/** How many marks stand in the first line of a map. */
function columnsOf(marks) {
  const { path } = marks[0].dataset;
  return Math.max(1, marks.filter((mark) => mark.dataset.path === path).length);
}
