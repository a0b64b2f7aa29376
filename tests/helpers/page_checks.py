"""Checks of an open page that hold for every page: contrast of its text, and that keys reach everything."""

from __future__ import annotations

from chromium import Chromium

# Each text that is seen: its colour, times the opacity of what it stands in, against the colours behind it (WCAG 2).
_CONTRAST = r"""(() => {
  const pixel = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const known = new Map();
  const parts = (text) => {
    if (!known.has(text)) {
      pixel.clearRect(0, 0, 1, 1);
      pixel.fillStyle = text;
      pixel.fillRect(0, 0, 1, 1);
      const numbers = text.match(/^rgba?\(([\d.]+), ([\d.]+), ([\d.]+)(?:, ([\d.]+))?\)$/);
      const drawn = [...pixel.getImageData(0, 0, 1, 1).data];
      known.set(text, numbers ? [1, 2, 3].map((at) => Number(numbers[at])).concat(Number(numbers[4] ?? 1))
        : drawn.slice(0, 3).concat(drawn[3] / 255));
    }
    return known.get(text);
  };
  const over = (top, below) => [0, 1, 2].map((at) => top[at] * top[3] + below[at] * (1 - top[3])).concat(1);
  const light = (colour) => [0.2126, 0.7152, 0.0722].reduce((sum, share, at) => {
    const part = colour[at] / 255;
    return sum + share * (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
  }, 0);
  const above = (element) => {
    const all = [];
    for (let each = element; each; each = each.parentElement) all.push(each);
    return all;
  };
  const behind = (element) => above(element).reverse()
    .reduce((below, each) => over(parts(getComputedStyle(each).backgroundColor), below), [255, 255, 255, 1]);
  const weak = [];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.textContent.trim());
    const box = element.getBoundingClientRect();
    if (!own || element.matches("script, title, option") || !box.width || !element.checkVisibility()) continue;
    const style = getComputedStyle(element), drawing = element.ownerSVGElement;
    let ground = behind(drawing ? drawing.parentElement : element);
    const rectangle = element.matches("text.cell") ? element.parentElement.querySelector("rect")
      : drawing?.querySelector("rect.ground");
    if (rectangle) ground = over(parts(getComputedStyle(rectangle).fill), ground);
    const ink = [...parts(drawing ? style.fill : style.color)];
    ink[3] *= above(element).reduce((product, each) => product * Number(getComputedStyle(each).opacity), 1);
    const [low, high] = [light(over(ink, ground)), light(ground)].sort((a, b) => a - b);
    const ratio = (high + 0.05) / (low + 0.05);
    if (ratio < 4.5) weak.push(`${ratio.toFixed(2)} ${element.tagName} "${element.textContent.trim().slice(0, 40)}"`);
  }
  return weak;
})()"""

# What a pointer can use, and keys cannot: neither a stop of the tab key nor in a group that arrow keys go through.
_UNREACHED = """[...document.querySelectorAll("button, select, input, a[href], audio, summary, [role=button]")]
  .filter((element) => element.checkVisibility() && element.tabIndex < 0)
  .filter((element) => {
    const group = element.closest(".all-heads, .side, svg.heat, svg.point-map, table");
    return !group || ![...group.querySelectorAll("[tabindex='0']")].length;
  }).map((element) => element.outerHTML.slice(0, 120))"""


def weak_texts(browser: Chromium) -> list[str]:
    """Texts of the open page whose contrast is below 4.5, with all its folded parts open."""
    browser.run("document.querySelectorAll('details').forEach(part => { part.open = true; }), 0")
    return browser.run(_CONTRAST)


def unreached(browser: Chromium) -> list[str]:
    """What of the open page reacts to a pointer and cannot be reached by keys."""
    return browser.run(_UNREACHED)
