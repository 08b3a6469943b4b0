// The explorer of a router's operating points. It draws everything from numbers that are sent once; in Jupyter and in a
// page without a kernel. `model.get("data")` is what `Explored.numbers` returns.
const W = 760, H = 430, L = 56, R = 150, T = 14, B = 46;
const esc = (s) => String(s).replace(/[&<>"']/g, (c) => `&#${c.charCodeAt(0)};`);
const money = (usd) => `US$ ${(usd * 1000).toPrecision(3)} per 1,000`;

// The entry of the curve that holds at a cost weight: the last whose lam is above it. lam falls, its first is null (infinite).
function entry(curve, lam) {
  let low = 0, high = curve.lam.length;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (curve.lam[middle] > lam) low = middle; else high = middle;
  }
  return low;
}

// The model with the most predicted quality - lam * predicted cost, of equals the cheaper; and the second.
function called(q, usd, lam) {
  const worth = q.map((v, m) => (v === null ? -Infinity : v - lam * usd[m]));
  const best = (skip) => {
    let now = -1;
    for (let m = 0; m < worth.length; m++) {
      if (m === skip || worth[m] === -Infinity) continue;
      const more = now < 0 ? 1 : worth[m] - worth[now];
      if (more > 1e-12 || (more >= -1e-12 && usd[m] < usd[now])) now = m;
    }
    return now;
  };
  const first = best(-1);
  return { first, second: best(first), worth };
}

function picture(d, x, y, ticks) {
  const path = (xs, ys) => xs.map((u, i) => `${i ? "L" : "M"}${x(u).toFixed(1)},${y(ys[i]).toFixed(1)}`).join("");
  const parts = ticks.x.map((u) => `<line x1="${x(u)}" x2="${x(u)}" y1="${T}" y2="${H - B}" class="grid"/>` +
    `<text x="${x(u)}" y="${H - B + 16}" text-anchor="middle">${+(u * 1000).toPrecision(2)}</text>`);
  parts.push(...ticks.y.map((q) => `<line x1="${L}" x2="${W - R}" y1="${y(q)}" y2="${y(q)}" class="grid"/>` +
    `<text x="${L - 6}" y="${y(q) + 4}" text-anchor="end">${Math.round(q * 100)}</text>`));
  if (d.oracle) {
    const back = [...d.oracle.usd].reverse(), top = [...d.oracle.high].reverse();
    parts.push(`<path class="bracket" d="${path(d.oracle.usd, d.oracle.low)}L${path(back, top).slice(1)}Z"/>`);
    const end = d.oracle.usd.length - 1;
    parts.push(`<text x="${x(d.oracle.usd[end]) + 6}" y="${y(d.oracle.high[end])}" class="grey">oracle bracket</text>`);
  }
  parts.push(`<path class="mix" d="${path(d.hull.usd, d.hull.quality)}"/>`);
  parts.push(`<path class="curve" d="${path(d.curve.usd, d.curve.quality)}"/>`);
  for (const m of d.models) {
    parts.push(`<line class="bar" x1="${x(m.usd)}" x2="${x(m.usd)}" y1="${y(m.low)}" y2="${y(m.high)}"/>` +
      `<circle class="model" cx="${x(m.usd)}" cy="${y(m.quality)}" r="4"/>` +
      `<text class="halo" x="${x(m.usd) + 7}" y="${y(m.quality) + 13}">${esc(m.name)}</text>`);
  }
  parts.push(`<text x="${(L + W - R) / 2}" y="${H - 8}" text-anchor="middle">Cost (US$ per 1,000 queries, log scale)</text>`);
  parts.push(`<text transform="translate(14,${(T + H - B) / 2}) rotate(-90)" text-anchor="middle">Correct answers (%)</text>`);
  parts.push(`<circle class="point" r="8"/>`);
  return `<svg viewBox="0 0 ${W} ${H}" role="img" aria-label="${esc(d.alt)}"><title>${esc(d.alt)}</title>${parts.join("")}</svg>`;
}

const STYLE = `.rl-explorer{font:13px sans-serif;max-width:${W}px;color:#202124;background:#fff}
.rl-explorer svg{width:100%;cursor:crosshair}.rl-explorer svg text{font-size:12px;fill:#202124}
.rl-explorer .grid{stroke:#dadce0;stroke-width:.6}.rl-explorer .curve{fill:none;stroke:#0072B2;stroke-width:2}
.rl-explorer .mix{fill:none;stroke:#5F6368;stroke-dasharray:6 4;stroke-width:1.5}.rl-explorer .bracket{fill:#5F6368;opacity:.18}
.rl-explorer .bar{stroke:#000}.rl-explorer .model{fill:#fff;stroke:#000;stroke-width:1.4}.rl-explorer .point{fill:#D55E00;stroke:#fff}
.rl-explorer svg .halo{paint-order:stroke;stroke:#fff;stroke-width:3px}.rl-explorer svg .grey{fill:#5F6368}
.rl-explorer input{width:100%}.rl-explorer table{border-collapse:collapse;margin:4px 0}
.rl-explorer td,.rl-explorer th{border-bottom:1px solid #dadce0;padding:2px 8px 2px 0;text-align:left;vertical-align:top}
.rl-explorer .list{max-height:420px;overflow:auto}`;

function render({ model, el }) {
  const d = model.get("data"), curve = d.curve;
  const costs = [...curve.usd, ...d.models.map((m) => m.usd), ...d.hull.usd, ...(d.oracle ? d.oracle.usd : [])];
  const heights = [...curve.quality, ...d.models.flatMap((m) => [m.low, m.high]), ...(d.oracle ? d.oracle.high : [])];
  const paid = costs.filter((u) => u > 0), least = paid.length ? Math.min(...paid) : 1;
  const place = (u) => Math.log10(Math.max(u, least / 2));  // what is free stands left of the least that is paid
  const [x0, x1] = [place(Math.min(...costs)) - 0.05, place(Math.max(...costs)) + 0.05];
  const [y0, y1] = [Math.min(...heights) - 0.02, Math.max(...heights) + 0.02];
  const x = (u) => L + ((place(u) - x0) / (x1 - x0)) * (W - R - L);
  const y = (q) => H - B - ((q - y0) / (y1 - y0)) * (H - B - T);
  const decades = [];
  for (let k = Math.ceil(x0) - 1; k <= x1; k++) for (const s of [1, 2, 5]) decades.push(s * 10 ** k);
  const tens = [];
  for (let q = Math.ceil(y0 * 10) / 10; q <= y1; q += 0.1) tens.push(q);
  const ticks = { x: decades.filter((u) => place(u) >= x0 && place(u) <= x1 && u >= least / 2), y: tens };
  el.innerHTML = `<style>${STYLE}</style><div class="rl-explorer"><strong>${esc(d.title)}</strong>${picture(d, x, y, ticks)}
<label>cost weight λ (left: cost does not count; right: λ*, from where every question goes to its cheapest model)
<input type="range" min="0" max="1000" step="1" aria-label="cost weight"></label>
<output aria-live="polite"></output><div class="list"></div></div>`;
  const find = (what) => el.querySelector(what);
  const [svg, point, slider, said, list] = ["svg", ".point", "input", "output", ".list"].map(find);
  const first = curve.lam[curve.lam.length - 1] || 1, last = curve.lam[1] || 1, spread = Math.log(last / first);
  const weight = (v) => (v <= 0 ? 0 : first * Math.exp(spread * (v / 1000)));
  const position = (lam) => (lam <= first ? 0 : spread > 0 ? Math.min(1000, (1000 * Math.log(lam / first)) / spread) : 1000);
  let lam = 0;

  function show(now) {
    lam = now;
    const k = entry(curve, lam);
    point.setAttribute("cx", x(curve.usd[k]));
    point.setAttribute("cy", y(curve.quality[k]));
    const extra = lam > 0 ? `; 1,000 extra right answers are worth US$ ${(1000 / lam).toPrecision(3)}` : "; cost does not count";
    said.textContent = `λ = ${+lam.toPrecision(3)}: ${(100 * curve.quality[k]).toFixed(1)} % right at ${money(curve.usd[k])}${extra}`;
  }

  function explain() {
    const to = d.models.map(() => []);
    d.questions.forEach((question, i) => {
      const how = called(d.predicted[i], d.predicted_usd[i], lam);
      to[how.first].push([question, how, d.predicted[i], d.predicted_usd[i], d.quality[i][how.first]]);
    });
    list.replaceChildren(...to.map((rows, m) => {
      const box = document.createElement("details"), head = document.createElement("summary");
      const share = ((100 * rows.length) / d.questions.length).toFixed(1);
      head.textContent = `${d.models[m].name}: ${rows.length} questions (${share} %)`;
      box.append(head);
      box.addEventListener("toggle", () => { if (box.open && box.children.length < 2) box.append(table(rows, m)); });
      return box;
    }));
  }

  function table(rows, m) {
    const grid = document.createElement("table");
    const line = (cells, kind) => {
      const row = grid.insertRow();
      for (const text of cells) row.appendChild(document.createElement(kind)).textContent = text;
    };
    line(["question", "why", "quality that happened"], "th");
    for (const [question, how, q, usd, happened] of rows.slice(0, 200)) {
      const mine = `predicted ${q[m].toFixed(2)} for US$ ${usd[m].toPrecision(2)}`, s = how.second;
      const other = s < 0 ? "" : `; ${d.models[s].name}: ${q[s].toFixed(2)} for US$ ${usd[s].toPrecision(2)}, ` +
        `worth ${(how.worth[m] - how.worth[s]).toPrecision(2)} less at this λ`;
      line([question, mine + other, happened === null ? "missing" : happened.toFixed(2)], "td");
    }
    if (rows.length > 200) line([`and ${rows.length - 200} more`], "td");
    return grid;
  }

  slider.addEventListener("input", () => show(weight(+slider.value)));
  slider.addEventListener("change", () => { explain(); model.set("lam", lam); model.save_changes(); });
  svg.addEventListener("click", (event) => {
    const box = svg.getBoundingClientRect(), scale = W / box.width;
    const [px, py] = [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
    let nearest = 0, least = Infinity;
    for (let k = 0; k < curve.usd.length; k++) {
      const far = (x(curve.usd[k]) - px) ** 2 + (y(curve.quality[k]) - py) ** 2;
      if (far < least) [nearest, least] = [k, far];
    }
    show(nearest + 1 < curve.lam.length ? curve.lam[nearest + 1] : 0);
    slider.value = position(lam);
    explain();
    model.set("lam", lam);
    model.save_changes();
  });
  show(model.get("lam"));
  slider.value = position(lam);
  explain();
}
export default { render };
