// Fields of a method's parameters, made from GET /v1/methods.

/** Fields for the parameters of a method, filled with the values of a preset. */
export class ParameterFields {
  constructor(box, count) {
    this.box = box;
    this.count = count;
    this.fields = [];
    box.addEventListener("input", () => this.mark());
  }

  /** Show the fields of a method; `values` are the preset's, by name. */
  show(method, values = {}) {
    this.fields = method.parameters
      .filter((each) => each.name !== "preset")
      .map((parameter) => makeField(parameter, values[parameter.name] ?? parameter.default));
    this.box.replaceChildren(...this.fields.map((field) => field.element));
    this.mark();
  }

  /** What was changed, by name. Raises Error with the name of a field whose value is of the wrong kind. */
  values() {
    return Object.fromEntries(this.fields.filter(isChanged).map((field) => [field.parameter.name, valueOf(field)]));
  }

  mark() {
    let changed = 0;
    for (const field of this.fields) {
      const differs = isChanged(field);
      field.element.classList.toggle("changed", differs);
      changed += differs;
    }
    this.count.textContent = `(${this.fields.length}${changed ? `, ${changed} changed` : ""})`;
  }
}

function isChanged(field) {
  return rawOf(field) !== field.initial;
}

function rawOf({ input }) {
  return input.type === "checkbox" ? String(input.checked) : input.value.trim();
}

function valueOf({ parameter, input }) {
  const raw = rawOf({ input });
  const kinds = parameter.type.split(" or ");
  if (kinds.includes("boolean")) return raw === "true";
  if (raw === "" && kinds.includes("null")) return null;
  if (kinds.includes("choice") && parameter.choices.includes(raw)) return raw;
  if (kinds.includes("integer") || kinds.includes("number")) {
    const value = Number(raw);
    if (raw === "" || !Number.isFinite(value)) throw new Error(`${parameter.name} is ${raw || "empty"}, expected ${parameter.type}`);
    return value;
  }
  return raw;
}

function makeField(parameter, value) {
  const element = document.createElement("div");
  element.className = "field";
  const id = `parameter-${parameter.name}`;
  const label = document.createElement("label");
  label.htmlFor = id;
  const name = document.createElement("code");
  name.textContent = parameter.name;
  label.append(name);
  if (parameter.symbol) {
    const symbol = document.createElement("span");
    symbol.className = "symbol";
    symbol.textContent = ` ${parameter.symbol}`;
    label.append(symbol);
  }
  const input = makeInput(parameter, value);
  input.id = id;
  const hint = document.createElement("p");
  hint.className = "hint";
  hint.id = `${id}-hint`;
  hint.textContent = [parameter.description, limits(parameter)].filter(Boolean).join("; ");
  input.setAttribute("aria-describedby", hint.id);
  element.append(label, input, hint);
  const field = { parameter, element, input };
  field.initial = rawOf(field);
  return field;
}

function makeInput(parameter, value) {
  const kinds = parameter.type.split(" or ");
  if (kinds[0] === "boolean") {
    const input = document.createElement("input");
    input.type = "checkbox";
    input.checked = value === true;
    return input;
  }
  if (kinds.length === 1 && kinds[0] === "choice") {
    const input = document.createElement("select");
    input.append(...parameter.choices.map((choice) => new Option(choice, choice, choice === value, choice === value)));
    return input;
  }
  const input = document.createElement("input");
  input.autocomplete = "off";
  input.spellcheck = false;
  if (kinds.some((kind) => ["integer", "number"].includes(kind))) input.inputMode = "decimal";
  if (kinds.includes("null")) input.placeholder = "by itself";
  input.value = value === null || value === undefined ? "" : String(value);
  return input;
}

function limits(parameter) {
  const parts = [];
  if (parameter.minimum !== null) parts.push(`at least ${parameter.minimum}`);
  if (parameter.exclusive_minimum !== null) parts.push(`above ${parameter.exclusive_minimum}`);
  if (parameter.maximum !== null) parts.push(`at most ${parameter.maximum}`);
  if (parameter.exclusive_maximum !== null) parts.push(`below ${parameter.exclusive_maximum}`);
  const kinds = parameter.type.split(" or ");
  if (kinds.includes("choice") && kinds.length > 1) parts.push(`${parameter.choices.join(", ")} or a number`);
  return parts.join(", ");
}
