  // The answer as a grid; part of viewer.js, whose names it uses.

  /** The answer as its task draws it: clues from the start, blanks as their tokens are revealed. */
  function buildGrid(decoding, { num_columns: columns, box, clues }) {
    const characters = decoding.tokens
      .slice(0, decoding.numCounted)
      .flatMap((token, i) => [...texts[token].replace(/\s/g, "")].map((text) => ({ text, i })));
    const node = make("div", "grid-answer");
    node.style.setProperty("--columns", columns);
    node.setAttribute("role", "img");
    const cells = clues.map((clue, k) => {
      const cell = make("span", clue ? "clue" : "blank");
      if (k % columns && (k % columns) % box === 0) cell.classList.add("left");
      if (k >= columns && Math.floor(k / columns) % box === 0) cell.classList.add("top");
      node.append(cell);
      return cell;
    });
    function update() {
      clues.forEach((clue, k) => {
        const character = characters[k];
        const isKnown = character !== undefined && decoding.steps[character.i] < step;
        cells[k].textContent = isKnown ? character.text : clue;
        cells[k].classList.toggle("new", isKnown && decoding.steps[character.i] === step - 1);
        cells[k].classList.toggle("known", isKnown);
        cells[k].classList.toggle("differs", isKnown && (decoding.differing.includes(character.i) || (clue !== "" && clue !== character.text)));
      });
      const written = cells.map((cell) => cell.textContent || "blank").join(" ");
      node.ariaLabel = `The answer as a grid of ${columns} columns: ${written}`;
    }
    return { node, cells, characters, update };
  }

