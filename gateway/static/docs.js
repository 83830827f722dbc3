// In a file of its own: the pages' Content-Security-Policy allows no script in the page itself.
SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  validatorUrl: null, // would send the description to another host
});
