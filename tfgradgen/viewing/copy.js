for (const box of document.querySelectorAll(".command")) {
  const text = box.querySelector("pre"), status = box.querySelector("[role=status]");
  box.querySelector("button").addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text.textContent);
      status.textContent = "Copied.";
    } catch {
      getSelection().selectAllChildren(text);
      status.textContent = "The browser refused. The text is selected: copy it with the keyboard.";
    }
  });
}
