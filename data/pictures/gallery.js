// Sorting and searching a stage's cards; no library, nothing loaded.
const grid = document.querySelector('.grid'), cards = [...grid.children];
const count = document.querySelector('#count'), buttons = [...document.querySelectorAll('button')];
const number = (card, key, missing) => {
  const value = parseFloat(card.dataset[key]);
  return isNaN(value) ? missing : value;
};
const good = card => card.dataset.status === 'ok';
const words = (a, b) => a.localeCompare(b, undefined, { numeric: true });
const by = {
  name: (a, b) => words(a.dataset.name, b.dataset.name),
  status: (a, b) => good(a) - good(b) || words(a.dataset.status, b.dataset.status),
  residual: (a, b) => number(b, 'residual', -1) - number(a, 'residual', -1),
  confidence: (a, b) => number(a, 'confidence', 1e9) - number(b, 'confidence', 1e9),
};
for (const button of buttons) button.onclick = () => {
  for (const other of buttons) other.setAttribute('aria-pressed', other === button);
  cards.sort((a, b) => by[button.dataset.by](a, b) || by.name(a, b));
  grid.append(...cards);
};
document.querySelector('input').oninput = event => {
  const wanted = event.target.value.toLowerCase();
  let shown = 0;
  for (const card of cards) {
    const { name, status, subject } = card.dataset;
    const found = `${name} ${status} ${subject}`.toLowerCase().includes(wanted);
    card.style.display = found ? '' : 'none';
    shown += found;
  }
  count.textContent = shown;
};
