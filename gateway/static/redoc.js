// Without search, which would run in a worker made from a string.
Redoc.init("openapi.json", { disableSearch: true }, document.getElementById("redoc"));
