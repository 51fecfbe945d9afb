// Measures what is seen of a page, and sends it to the page around: see browser.py.
function visible(element) {
  return element.checkVisibility({ checkOpacity: true, checkVisibilityCSS: true });
}

function texts() {
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const found = [];
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const parent = node.parentElement;
    if (!node.data.trim() || ["SCRIPT", "STYLE", "TITLE", "title"].includes(parent.tagName) || !visible(parent)) continue;
    const range = document.createRange();
    range.selectNodeContents(node);
    found.push({ parent, words: node.data.trim(), boxes: [...range.getClientRects()].filter(box => box.width > 0) });
  }
  return found;
}

function colour(text) {
  const numbers = text.match(/[\d.]+/g).map(Number);
  return { rgb: numbers.slice(0, 3), alpha: numbers.length > 3 ? numbers[3] : 1 };
}

function luminance(rgb) {
  const [r, g, b] = rgb.map(v => { const s = v / 255; return s <= 0.04045 ? s / 12.92 : ((s + 0.055) / 1.055) ** 2.4; });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}

function behind(element) {
  for (let at = element; at; at = at.parentElement) {
    const found = colour(getComputedStyle(at).backgroundColor);
    if (found.alpha === 1) return found.rgb;
  }
  return [255, 255, 255];
}

function contrast(element) {
  const style = getComputedStyle(element);
  const ink = luminance(colour(element.namespaceURI.endsWith("svg") ? style.fill : style.color).rgb);
  const paper = luminance(behind(element));
  return (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
}

function overlap(a, b) {
  return Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1 && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 2;
}

function overlapping(found) {
  const groups = new Map();
  for (const each of found) {
    const around = each.parent.closest("svg, summary, .pair, tr, figure");
    if (around) groups.set(around, [...(groups.get(around) || []), each]);
  }
  const pairs = [];
  for (const group of groups.values())
    for (let i = 0; i < group.length; i++)
      for (let j = 0; j < i; j++)
        if (group[i].boxes.some(a => group[j].boxes.some(b => overlap(a, b)))) pairs.push([group[i].words, group[j].words]);
  return pairs;
}

function outside(found) {
  return found.filter(({ parent, boxes }) => {
    const svg = parent.closest("svg");
    const limit = svg ? svg.getBoundingClientRect() : { left: 0, right: innerWidth };
    const stacked = innerWidth <= 640 && parent.closest(".words, .layers");  // as blocks: nothing is to be scrolled for
    const free = !svg && !stacked && parent.closest(".scroll");
    return !free && boxes.some(box => box.left < limit.left - 1 || box.right > limit.right + 1 || (svg && box.bottom > limit.bottom + 1));
  }).map(each => each.words);
}

function clipped(found) {
  return found.filter(({ parent }) => {
    const style = getComputedStyle(parent);
    return style.overflow === "hidden" && (parent.scrollWidth > parent.clientWidth + 1 || parent.scrollHeight > parent.clientHeight + 1);
  }).map(each => each.words);
}

function bars() {
  return [...document.querySelectorAll(".rows details > summary .bar i")].filter(visible).map(bar => bar.getBoundingClientRect().width);
}

function measure() {
  const found = texts();
  return {
    wide: document.documentElement.scrollWidth - document.documentElement.clientWidth,
    outside: outside(found),
    clipped: clipped(found),
    overlapping: overlapping(found),
    faint: found.map(each => [contrast(each.parent), each.words]).filter(([ratio]) => ratio < 4.5),
    texts: found.length,
    words: found.map(each => each.words).join("\n"),
    bars: bars(),
  };
}

addEventListener("load", () => {
  const closed = measure();
  const other = [...document.querySelectorAll("input.by")].at(-1);
  const before = closed.bars;
  if (other) document.querySelector(`label[for="${other.id}"]`).click();
  const switched = bars();
  for (const each of document.querySelectorAll("details")) each.open = true;
  const opened = measure();
  parent.postMessage({ key: KEY, seen: { closed, opened, before, switched, heading: document.title, scripts: document.scripts.length } }, "*");
});
