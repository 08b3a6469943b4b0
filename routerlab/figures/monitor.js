// Lines of a training: `model.get("streams")` has, for each name, steps and values; drawn again whenever they change.
const W = 240, H = 150, L = 44, B = 22;
const esc = (s) => String(s).replace(/[&<>"']/g, (c) => `&#${c.charCodeAt(0)};`);

function panel(name, [steps, values]) {
  const [low, high] = [Math.min(...values), Math.max(...values)], [start, end] = [steps[0], steps[steps.length - 1]];
  const x = (s) => L + ((s - start) / (end - start || 1)) * (W - L - 6);
  const y = (v) => H - B - ((v - low) / (high - low || 1)) * (H - B - 20);
  const path = steps.map((s, i) => `${i ? "L" : "M"}${x(s).toFixed(1)},${y(values[i]).toFixed(1)}`).join("");
  const last = values[values.length - 1].toPrecision(3), alt = `${name} at step ${end}: ${last}`;
  return `<svg viewBox="0 0 ${W} ${H}" width="${W}" role="img" aria-label="${esc(alt)}" font-size="11" font-family="sans-serif">
<rect width="${W}" height="${H}" fill="#fff"/><text x="${L}" y="12" font-weight="bold">${esc(alt)}</text>
<path d="${path}" fill="none" stroke="#0072B2" stroke-width="1.5"/><circle cx="${x(end)}" cy="${y(values[values.length - 1])}" r="3" fill="#D55E00"/>
<text x="${L - 4}" y="24" text-anchor="end">${high.toPrecision(3)}</text><text x="${L - 4}" y="${H - B}" text-anchor="end">${low.toPrecision(3)}</text>
<text x="${L}" y="${H - 6}">step ${start}</text><text x="${W - 6}" y="${H - 6}" text-anchor="end">${end}</text></svg>`;
}

function render({ model, el }) {
  const draw = () => {
    const streams = Object.entries(model.get("streams"));
    el.innerHTML = streams.length ? streams.map(([name, stream]) => panel(name, stream)).join("") : "no step yet";
  };
  model.on("change:streams", draw);
  draw();
}
export default { render };
