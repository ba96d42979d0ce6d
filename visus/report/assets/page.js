"use strict";
(() => {
  const data = JSON.parse(document.getElementById("chart-data").textContent);
  const tip = document.createElement("div");
  tip.className = "tip";
  tip.hidden = true;
  document.body.append(tip);

  function showTip(text, x, y) {
    tip.textContent = text;
    tip.hidden = false;
    const box = tip.getBoundingClientRect();
    const left = x + 14 + box.width > document.documentElement.clientWidth ? x - box.width - 14 : x + 14;
    tip.style.left = Math.max(4, Math.min(left, document.documentElement.clientWidth - box.width - 4)) + window.scrollX + "px";
    tip.style.top = Math.max(4, y - box.height - 10) + window.scrollY + "px";
  }

  function hideTip() { tip.hidden = true; }

  function toView(svg, event) {
    return new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
  }

  function toScreen(svg, x, y) { return new DOMPoint(x, y).matrixTransform(svg.getScreenCTM()); }

  function pixel(axis, value) {
    const f = axis.log ? Math.log10 : Number;
    return axis.start + (f(value) - f(axis.low)) / (f(axis.high) - f(axis.low)) * (axis.end - axis.start);
  }

  function format(value, percentage) {
    return percentage ? (100 * value).toFixed(2) + " %" : String(Number(value.toPrecision(4)));
  }

  function mark(svg, name, attributes) {
    const node = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const key in attributes) node.setAttribute(key, attributes[key]);
    svg.append(node);
    return node;
  }

  function keys(svg, hide, move, more) {
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ...more };
    svg.addEventListener("pointerleave", hide);
    svg.addEventListener("blur", hide);
    svg.setAttribute("tabindex", "0");
    svg.addEventListener("keydown", (event) => {
      if (!moves[event.key]) return;
      event.preventDefault();
      move(...moves[event.key]);
    });
    tip.setAttribute("aria-live", "polite");
  }

  function lines(svg, chart) {
    const xs = [...new Set(chart.series.flatMap((s) => s.points.map((p) => p[0])))].sort((a, b) => a - b);
    const rule = mark(svg, "line", { class: "mark", visibility: "hidden" });
    const dots = chart.series.map((s) => mark(svg, "circle", { class: "dot " + s.kind, r: 3.5, visibility: "hidden" }));
    let at = xs.length - 1;
    const nearest = (points, x) => points.reduce((a, b) => Math.abs(b[0] - x) < Math.abs(a[0] - x) ? b : a);

    function show() {
      const x = xs[at];
      const px = pixel(chart.x, x);
      const words = [chart.xLabel + " " + Number(x.toPrecision(4))];
      rule.setAttribute("x1", px);
      rule.setAttribute("x2", px);
      rule.setAttribute("y1", chart.y.start);
      rule.setAttribute("y2", chart.y.end);
      rule.setAttribute("visibility", "visible");
      chart.series.forEach((s, k) => {
        const point = nearest(s.points, x);
        words.push(s.name + "  " + format(point[1], chart.percentage));
        dots[k].setAttribute("cx", pixel(chart.x, point[0]));
        dots[k].setAttribute("cy", pixel(chart.y, point[1]));
        dots[k].setAttribute("visibility", "visible");
      });
      const place = toScreen(svg, px, chart.y.end);
      showTip(words.join("\n"), place.x, place.y + 40);
    }

    function hide() {
      hideTip();
      [rule, ...dots].forEach((node) => node.setAttribute("visibility", "hidden"));
    }

    svg.addEventListener("pointermove", (event) => {
      const x = toView(svg, event).x;
      at = xs.reduce((best, value, k) =>
        Math.abs(pixel(chart.x, value) - x) < Math.abs(pixel(chart.x, xs[best]) - x) ? k : best, 0);
      show();
    });
    keys(svg, hide, (right) => {
      at = Math.min(xs.length - 1, Math.max(0, at + right));
      show();
    });
  }

  function heatmap(svg, chart) {
    const totals = chart.counts.map((row) => row.reduce((a, b) => a + b, 0));
    svg.addEventListener("pointermove", (event) => {
      const point = toView(svg, event);
      const i = Math.floor((point.y - chart.top) / chart.cell);
      const j = Math.floor((point.x - chart.left) / chart.cell);
      if (!(i in chart.counts) || !(j in chart.counts)) return hideTip();
      const count = chart.counts[i][j];
      const share = totals[i] ? (100 * count / totals[i]).toFixed(1) + " % of " + chart.labels[i] : "no images";
      showTip(chart.labels[i] + "\npredicted " + chart.labels[j] + "\n" + count + " (" + share + ")",
        event.clientX, event.clientY);
    });
    svg.addEventListener("pointerleave", hideTip);
  }

  function layers(svg, chart) {
    const cursor = mark(svg, "rect", { class: "cursor", width: chart.width, height: chart.height, visibility: "hidden" });
    let row = 0, column = chart.steps.length - 1;

    function show() {
      const x = chart.left + column * chart.width, y = chart.top + row * chart.height;
      cursor.setAttribute("x", x - 0.5);
      cursor.setAttribute("y", y - 0.5);
      cursor.setAttribute("visibility", "visible");
      const value = chart.values[row][column];
      const place = toScreen(svg, x + chart.width, y);
      showTip(chart.rows[row] + "\nstep " + chart.steps[column] + "\n" + chart.title + "  "
        + (value === null ? "not measured" : value), place.x, place.y);
    }

    function hide() {
      hideTip();
      cursor.setAttribute("visibility", "hidden");
    }

    svg.addEventListener("pointermove", (event) => {
      const point = toView(svg, event);
      const i = Math.floor((point.y - chart.top) / chart.height);
      const j = Math.floor((point.x - chart.left) / chart.width);
      if (!(i in chart.rows) || !(j in chart.steps)) return hide();
      row = i;
      column = j;
      show();
    });
    keys(svg, hide, (right, down) => {
      row = Math.min(chart.rows.length - 1, Math.max(0, row + down));
      column = Math.min(chart.steps.length - 1, Math.max(0, column + right));
      svg.parentElement.scrollLeft = chart.left + (column + 1) * chart.width - svg.parentElement.clientWidth / 2;
      show();
    }, { ArrowUp: [0, -1], ArrowDown: [0, 1] });
  }

  for (const svg of document.querySelectorAll("svg[data-chart]")) {
    const chart = data[svg.dataset.chart];
    if (chart) (chart.counts ? heatmap : chart.rows ? layers : lines)(svg, chart);
  }

  function value(row, column) {
    const text = row.cells[column].textContent.trim();
    const parsed = Number(text.replace(/,/g, ""));
    return column === 0 ? text : Number.isNaN(parsed) ? -Infinity : parsed;
  }

  for (const table of document.querySelectorAll("table.sortable")) {
    const headings = [...table.tHead.rows[0].cells];
    headings.forEach((heading, column) => heading.querySelector("button").addEventListener("click", () => {
      const order = heading.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
      headings.forEach((other) => other.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", order);
      const sign = order === "ascending" ? 1 : -1;
      const compare = column === 0
        ? (a, b) => value(a, 0).localeCompare(value(b, 0), undefined, { numeric: true })
        : (a, b) => value(a, column) === value(b, column) ? 0 : value(a, column) < value(b, column) ? -1 : 1;
      const body = table.tBodies[0];
      body.append(...[...body.rows].sort((a, b) => sign * compare(a, b)));
    }));
  }

  for (const button of document.querySelectorAll("button.copy")) {
    button.hidden = false;
    button.addEventListener("click", async () => {
      const code = button.parentElement.querySelector("pre");
      let done = true;
      try {
        await navigator.clipboard.writeText(code.textContent);
      } catch {
        getSelection().selectAllChildren(code);
        done = document.execCommand("copy");
      }
      button.textContent = done ? "Copied" : "Press Ctrl+C";
      setTimeout(() => { button.textContent = "Copy"; }, 2000);
    });
  }
})();
