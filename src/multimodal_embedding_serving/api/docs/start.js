// Shows this server's OpenAPI document in Swagger UI. Nothing is loaded from another host.

const dark = matchMedia("(prefers-color-scheme: dark)");
const followScheme = () => document.documentElement.classList.toggle("dark-mode", dark.matches);
dark.addEventListener("change", followScheme);
followScheme();

const page = SwaggerUIBundle({
  url: new URL("../openapi.json", import.meta.url).href, // below a proxy's path, too
  dom_id: "#swagger-ui",
  deepLinking: true,
  displayRequestDuration: true,
  defaultModelsExpandDepth: 0,
  filter: true,
  tryItOutEnabled: true,
  validatorUrl: null, // otherwise the document would be sent to swagger.io
  onComplete() {
    // The key that this tab entered in the playground.
    const key = playgroundKey();
    if (key) page.preauthorizeApiKey("ApiKey", key);
  },
});

function playgroundKey() {
  try {
    return sessionStorage.getItem("embedding-api-key");
  } catch {
    return null; // the browser blocks storage
  }
}
