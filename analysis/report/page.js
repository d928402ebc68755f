"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const find = (id) => document.getElementById(id);
  const SVG = "http://www.w3.org/2000/svg";
  const columns = new Map(data.columns.map((c) => [c.key, c]));
  const looks = new Map(data.looks.map(([name, color, marker]) => [name, [color, marker]]));
  const rankable = data.columns.filter((c) => c.better !== "");

  const format = (key, value) => {
    const digits = columns.get(key).digits;
    return value.toLocaleString("en-US", { minimumFractionDigits: digits, maximumFractionDigits: digits });
  };
  const element = (name, attributes, text) => {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    return made;
  };
  const option = (value, text) => {
    const made = document.createElement("option");
    made.value = value;
    made.textContent = text;
    return made;
  };

  // Markers as matplotlib names them, so that a precision looks the same here and in the figures.
  const polygon = (points) => "M" + points.map(([x, y]) => `${x},${y}`).join("L") + "Z";
  const cross = (a, b) => polygon([[-a, -b], [a, -b], [a, -a * 1.0], [b, -a], [b, a], [a, a], [a, b], [-a, b], [-a, a], [-b, a], [-b, -a], [-a, -a]]);
  const star = polygon(Array.from({ length: 10 }, (_, i) => {
    const radius = i % 2 ? 3 : 7.5, turn = (Math.PI * i) / 5;
    return [radius * Math.sin(turn), -radius * Math.cos(turn)];
  }));
  const hexagon = polygon(Array.from({ length: 6 }, (_, i) => [6 * Math.sin((Math.PI * i) / 3), -6 * Math.cos((Math.PI * i) / 3)]));
  const SHAPES = {
    o: "M-5.5,0A5.5,5.5 0 1 0 5.5,0A5.5,5.5 0 1 0 -5.5,0Z",
    s: polygon([[-5, -5], [5, -5], [5, 5], [-5, 5]]),
    D: polygon([[0, -6.5], [6.5, 0], [0, 6.5], [-6.5, 0]]),
    "^": polygon([[0, -6.5], [6.3, 5], [-6.3, 5]]),
    v: polygon([[0, 6.5], [6.3, -5], [-6.3, -5]]),
    P: cross(2.2, 6),
    X: polygon([[0, -2.6], [3.4, -6], [6, -3.4], [2.6, 0], [6, 3.4], [3.4, 6], [0, 2.6], [-3.4, 6], [-6, 3.4], [-2.6, 0], [-6, -3.4], [-3.4, -6]]),
    "*": star,
    h: hexagon,
  };
  const look = (precision) => {
    const [color, marker] = looks.get(precision);
    return { color: color === "#333333" ? "var(--ink)" : color, path: SHAPES[marker] || SHAPES.o };
  };

  // Configurations on the front, both metrics minimised after their signs are turned; equal ones are all on it.
  const frontOf = (points) => {
    const sorted = [...points].sort((a, b) => a.u - b.u || a.v - b.v);
    const found = [];
    let best = Infinity;
    for (let i = 0; i < sorted.length;) {
      let end = i;
      while (end < sorted.length && sorted[end].u === sorted[i].u) end += 1;
      if (sorted[i].v < best) {
        best = sorted[i].v;
        for (let k = i; k < end && sorted[k].v === best; k += 1) found.push(sorted[k]);
      }
      i = end;
    }
    return found;
  };
  const dominates = (a, b) => a.u <= b.u && a.v <= b.v && (a.u < b.u || a.v < b.v);

  const ticks = (low, high, count) => {
    const rough = (high - low) / count;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 2.5, 5, 10].map((f) => f * power).find((s) => s >= rough * 0.999);
    const found = [];
    for (let n = Math.ceil(low / step); n * step <= high + step * 1e-9; n += 1) found.push(n * step);
    return { values: found, digits: Math.max(0, -Math.floor(Math.log10(step) + 1e-9) + (step / power === 2.5 ? 1 : 0)) };
  };
  const range = (values) => {
    const low = Math.min(...values), high = Math.max(...values);
    const margin = (high - low || Math.abs(high) || 1) * 0.09;
    return [low - margin, high + margin];
  };

  const plot = () => {
    const box = find("plot");
    const state = { x: "", y: "", model: "", hardware: "", chosen: null };
    const tip = document.createElement("div");
    tip.className = "tip";
    tip.hidden = true;
    const selects = { x: find("axis-x"), y: find("axis-y"), model: find("model"), hardware: find("hardware") };
    for (const c of rankable) {
      selects.x.append(option(c.key, c.label));
      selects.y.append(option(c.key, c.label));
    }
    const distinct = (name) => [...new Set(data.configurations.map((c) => c[name]))].sort();
    selects.model.append(option("", "all"), ...distinct("model").map((m) => option(m, m)));
    // A front across machines would compare hardware, not configurations: one machine at a time.
    const machines = distinct("hardware");
    selects.hardware.append(...machines.map((h) => option(h, h)));
    find("hardware-label").hidden = machines.length < 2;
    const first = data.views[0] || { x: rankable[1].key, y: rankable[0].key };
    Object.assign(state, { x: first.x, y: first.y, hardware: machines[0] });

    const lines = (p) => {
      const told = [p.c.name];
      for (const key of [state.x, state.y]) {
        const around = p.c.intervals[key];
        const bounds = around ? ` (${format(key, around[0])} to ${format(key, around[1])})` : "";
        told.push(`${columns.get(key).label}: ${format(key, p.c.values[key])}${bounds}`);
      }
      told.push(p.front ? "On the front" : `Dominated by ${p.by.slice(0, 3).join(", ")}${p.by.length > 3 ? ` and ${p.by.length - 3} more` : ""}`);
      if (p.c.flagged) told.push(`Flagged: ${p.c.flagged}`);
      return told;
    };
    const show = (p) => {
      tip.replaceChildren(...lines(p).map((text, i) => {
        const line = document.createElement(i ? "div" : "strong");
        line.textContent = text;
        return line;
      }));
      tip.hidden = false;
      const width = box.clientWidth, across = tip.offsetWidth, down = tip.offsetHeight;
      tip.style.left = `${Math.max(0, Math.min(width - across, p.px + (p.px > width / 2 ? -across - 12 : 12)))}px`;
      tip.style.top = `${Math.max(0, p.py - down / 2)}px`;
    };
    const choose = (p, node) => {
      state.chosen = p.c.id;
      for (const other of box.querySelectorAll(".chosen")) other.classList.remove("chosen");
      node.classList.add("chosen");
      find("details").textContent = lines(p).join(". ");
      for (const row of document.querySelectorAll("#table tbody tr")) row.classList.toggle("chosen", row.dataset.id === p.c.id);
      show(p);
    };

    const draw = () => {
      for (const name of Object.keys(selects)) selects[name].value = state[name];
      for (const button of find("views").children)
        button.setAttribute("aria-pressed", String(button.dataset.x === state.x && button.dataset.y === state.y));
      const eligible = data.configurations.filter((c) => (!state.model || c.model === state.model) && c.hardware === state.hardware);
      const known = eligible.filter((c) => state.x in c.values && state.y in c.values);
      const missing = eligible.length - known.length;
      find("missing").textContent = missing ? `${missing} of ${eligible.length} configurations lack one of the two and are not shown.` : "";
      find("details").textContent = "";
      const sign = (key) => (columns.get(key).better === "+" ? -1 : 1);
      const points = known.map((c) => ({ c, x: c.values[state.x], y: c.values[state.y], u: sign(state.x) * c.values[state.x], v: sign(state.y) * c.values[state.y] }));
      const front = frontOf(points);
      const on = new Set(front);
      for (const p of points) {
        p.front = on.has(p);
        p.by = p.front ? [] : front.filter((q) => dominates(q, p)).map((q) => q.c.name);
      }

      const width = Math.max(280, box.clientWidth || 640), height = Math.round(Math.max(300, Math.min(470, width * 0.52)));
      const svg = element("svg", { viewBox: `0 0 ${width} ${height}`, role: "group",
        "aria-label": `${columns.get(state.y).label} against ${columns.get(state.x).label}, ${points.length} configurations, ${front.length} on the front` });
      const edge = { left: 62, right: 14, top: 14, bottom: 46 };
      tip.hidden = true;
      if (!points.length) {
        svg.append(element("text", { x: width / 2, y: height / 2, "text-anchor": "middle" }, "No configuration has both metrics."));
        box.replaceChildren(svg, tip);
        legend([]);
        return;
      }
      const [x0, x1] = range(points.map((p) => p.x)), [y0, y1] = range(points.map((p) => p.y));
      const px = (x) => edge.left + ((x - x0) / (x1 - x0)) * (width - edge.left - edge.right);
      const py = (y) => height - edge.bottom - ((y - y0) / (y1 - y0)) * (height - edge.top - edge.bottom);
      const number = (value, digits) => value.toLocaleString("en-US", { minimumFractionDigits: digits, maximumFractionDigits: digits });
      const across = ticks(x0, x1, Math.max(3, Math.floor(width / 95))), up = ticks(y0, y1, 6);
      for (const t of across.values) {
        svg.append(element("line", { class: "grid", x1: px(t), x2: px(t), y1: edge.top, y2: height - edge.bottom }));
        svg.append(element("text", { class: "quiet", x: px(t), y: height - edge.bottom + 17, "text-anchor": "middle" }, number(t, across.digits)));
      }
      for (const t of up.values) {
        svg.append(element("line", { class: "grid", x1: edge.left, x2: width - edge.right, y1: py(t), y2: py(t) }));
        svg.append(element("text", { class: "quiet", x: edge.left - 7, y: py(t) + 4, "text-anchor": "end" }, number(t, up.digits)));
      }
      const way = (key, more, less) => (columns.get(key).better === "+" ? more : less);
      svg.append(element("text", { x: (edge.left + width - edge.right) / 2, y: height - 8, "text-anchor": "middle" },
        way(state.x, `${columns.get(state.x).label} · better →`, `← better · ${columns.get(state.x).label}`)));
      svg.append(element("text", { x: 0, y: 0, "text-anchor": "middle", transform: `translate(13 ${(edge.top + height - edge.bottom) / 2}) rotate(-90)` },
        way(state.y, `${columns.get(state.y).label} · better →`, `← better · ${columns.get(state.y).label}`)));

      // The front as steps: what is reached until the next configuration, nothing promised between two.
      const path = [...front].sort((a, b) => a.u - b.u);
      if (path.length) {
        const d = path.map((p, i) => (i ? `H${px(p.x)}V${py(p.y)}` : `M${px(p.x)},${py(p.y)}`)).join("");
        svg.append(element("path", { class: "front", d, "data-front": path.map((p) => p.c.id).join(" ") }));
      }
      const clampX = (x) => Math.max(edge.left, Math.min(width - edge.right, px(x))), clampY = (y) => Math.max(edge.top, Math.min(height - edge.bottom, py(y)));
      const drawn = [...points].sort((a, b) => a.x - b.x || a.y - b.y);
      const nodes = drawn.map((p) => {
        const { color, path: shape } = look(p.c.precision);
        p.px = px(p.x);
        p.py = py(p.y);
        const wx = p.c.intervals[state.x], wy = p.c.intervals[state.y];
        if (wx) svg.append(element("line", { class: "whisker", stroke: color, x1: clampX(wx[0]), x2: clampX(wx[1]), y1: p.py, y2: p.py }));
        if (wy) svg.append(element("line", { class: "whisker", stroke: color, x1: p.px, x2: p.px, y1: clampY(wy[0]), y2: clampY(wy[1]) }));
        const node = element("g", { class: "point", tabindex: "-1", role: "img", transform: `translate(${p.px} ${p.py})`,
          "data-id": p.c.id, "data-on-front": String(p.front), "aria-label": lines(p).join(", ") });
        node.append(element("circle", { class: "halo", r: 12 }));
        const fill = p.front ? color : "var(--paper)";
        node.append(element("path", { d: shape, style: `fill:${fill};stroke:${color};stroke-width:2`, ...(p.c.engine === "transformers" ? { "stroke-dasharray": "3 1.5" } : {}) }));
        node.addEventListener("mouseenter", () => show(p));
        node.addEventListener("mouseleave", () => { tip.hidden = true; });
        node.addEventListener("focus", () => choose(p, node));
        node.addEventListener("blur", () => { tip.hidden = true; });
        node.addEventListener("click", () => node.focus());
        return node;
      });
      svg.append(...nodes);
      // One stop for the tab key; the arrows go from point to point along the horizontal axis.
      nodes[0].setAttribute("tabindex", "0");
      nodes.forEach((node, i) => node.addEventListener("keydown", (event) => {
        const to = { ArrowRight: i + 1, ArrowUp: i + 1, ArrowLeft: i - 1, ArrowDown: i - 1, Home: 0, End: nodes.length - 1 }[event.key];
        if (event.key === "Escape") tip.hidden = true;
        if (to === undefined || !nodes[to]) return;
        event.preventDefault();
        node.setAttribute("tabindex", "-1");
        nodes[to].setAttribute("tabindex", "0");
        nodes[to].focus();
      }));
      names(svg, drawn, width, height, edge, columns.get(state.x).better === "+");
      box.replaceChildren(svg, tip);
      legend(points);
    };

    // Names of the front's configurations where they run into nothing.
    const names = (svg, points, width, height, edge, right) => {
      const taken = points.map((p) => [p.px - 8, p.py - 8, p.px + 8, p.py + 8]);
      const single = new Set(points.map((p) => p.c.model)).size === 1;
      for (const p of points.filter((q) => q.front)) {
        const text = single ? p.c.name.split("/").slice(1).join("/") : p.c.name;
        const long = text.length * 6.6;
        // First on the side that the line of the front does not leave by.
        const [free, line] = right ? [["start", 11], ["end", -11]] : [["end", -11], ["start", 11]];
        const spots = [[...free, 4], [...free, -9], [...free, 17], ["middle", 0, -12], [...line, -9], [...line, 17], ["middle", 0, 22], [...line, 4]];
        for (const [anchor, dx, dy] of spots) {
          const left = p.px + dx - (anchor === "end" ? long : anchor === "middle" ? long / 2 : 0);
          const area = [left, p.py + dy - 11, left + long, p.py + dy + 4];
          const inside = area[0] > edge.left && area[2] < width - 2 && area[1] > 2 && area[3] < height - edge.bottom;
          if (inside && taken.every((t) => area[2] < t[0] || area[0] > t[2] || area[3] < t[1] || area[1] > t[3])) {
            svg.append(element("text", { class: "name", x: p.px + dx, y: p.py + dy, "text-anchor": anchor, "pointer-events": "none" }, text));
            taken.push(area);
            break;
          }
        }
      }
    };
    const legend = (points) => {
      const order = [...looks.keys()].filter((name) => points.some((p) => p.c.precision === name));
      find("legend").replaceChildren(...order.map((name) => {
        const { color, path } = look(name);
        const item = document.createElement("span");
        const icon = element("svg", { width: 16, height: 16, viewBox: "-8 -8 16 16", "aria-hidden": "true" });
        icon.append(element("path", { d: path, style: `fill:${color};stroke:${color}` }));
        item.append(icon, name);
        return item;
      }));
    };

    for (const view of data.views) {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = view.title;
      Object.assign(button.dataset, { x: view.x, y: view.y });
      button.addEventListener("click", () => { Object.assign(state, { x: view.x, y: view.y }); draw(); });
      find("views").append(button);
    }
    for (const [name, select] of Object.entries(selects))
      select.addEventListener("change", () => { state[name] = select.value; draw(); });
    let last = 0;
    window.addEventListener("resize", () => {
      if (box.clientWidth === last) return;
      last = box.clientWidth;
      draw();
    });
    draw();
  };

  const sortable = (table) => {
    const body = table.tBodies[0];
    const headings = [...table.tHead.rows[0].cells];
    headings.forEach((heading, index) => heading.querySelector("button").addEventListener("click", () => {
      const number = heading.dataset.kind === "number";
      const down = heading.getAttribute("aria-sort") === "ascending";
      for (const other of headings) other.removeAttribute("aria-sort");
      heading.setAttribute("aria-sort", down ? "descending" : "ascending");
      const value = (row) => row.cells[index].dataset.value;
      const order = (a, b) => {
        const left = value(a), right = value(b);
        if (left === "" || right === "") return Number(left === "") - Number(right === "");  // what is unknown comes last, either way
        const difference = number ? Number(left) - Number(right) : left.localeCompare(right, "en", { numeric: true });
        return down ? -difference : difference;
      };
      body.append(...[...body.rows].sort(order));
    }));
  };

  if (find("table")) sortable(find("table"));
  if (find("plot") && rankable.length > 1) plot();
  else if (find("pareto")) find("pareto").remove();
})();
