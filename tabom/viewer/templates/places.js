  // Both models at a glance, and the addresses of trajectories; part of viewer.js, whose names it uses.

  function buildSummary() {
    if (models.length !== 2) return;
    const [first, second] = models;
    const parts = [
      ["both right", "correct", "correct"],
      [`only ${first}`, "correct", "wrong"],
      [`only ${second}`, "wrong", "correct"],
      ["neither", "wrong", "wrong"],
    ];
    for (const [name, ...verdicts] of parts) {
      const num = queries.filter(({ decodings }) => decodings.every((decoding, i) => verdict(decoding) === verdicts[i])).length;
      const button = make("button", "", `${name}: ${num}`);
      button.type = "button";
      button.addEventListener("click", () => {
        const selects = [...document.querySelectorAll(".wanted")];
        const isSet = selects.every((select, i) => select.value === verdicts[i]);
        selects.forEach((select, i) => (select.value = isSet ? "" : verdicts[i]));
        filter();
      });
      find("summary").append(button);
    }
    find("summary").hidden = false;
  }

  const address = (query) => `#${encodeURIComponent(query.id)}`;

  function followAddress() {
    const index = queries.findIndex((query) => address(query) === location.hash);
    if (index < 0 || index === current) return;
    if (!matching.includes(index)) {
      for (const node of document.querySelectorAll("#search, #task, .wanted")) node.value = "";
      filter();
    }
    select(index);
  }

