"""The products, a module each. A new one is a module with a PRODUCT, and a line here."""

from metrics_pipeline.adapters.product import Product
from metrics_pipeline.adapters.products import (
    dify,
    flowise,
    langfuse2,
    langgraph,
    litellm,
    mlflow,
    n8n,
    openwebui,
    otel,
    phoenix,
)

#: By the name that `db adapt` takes.
PRODUCTS: dict[str, Product] = {
    module.PRODUCT.name: module.PRODUCT
    for module in (litellm, phoenix, mlflow, dify, n8n, flowise, langfuse2, langgraph, openwebui, otel)
}
