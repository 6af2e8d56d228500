"""The attributes of OpenTelemetry's spans that are read, the newest name first.

By the semantic conventions for generative AI, which are still in development:
https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-agent-spans/
"""

OPERATION = "gen_ai.operation.name"
#: The operations that are executions of an agent.
INVOCATIONS = ("invoke_agent", "invoke_workflow")
AGENT = ("gen_ai.agent.name", "gen_ai.workflow.name", "gen_ai.agent.id")
INPUT_TOKENS = ("gen_ai.usage.input_tokens", "gen_ai.usage.prompt_tokens")
OUTPUT_TOKENS = ("gen_ai.usage.output_tokens", "gen_ai.usage.completion_tokens")
USER = ("user.id", "enduser.id")
MODEL = ("gen_ai.response.model", "gen_ai.request.model")
AGENT_VERSION = "gen_ai.agent.version"
#: Of the resource.
SERVICE_VERSION = "service.version"
CONVERSATION = "gen_ai.conversation.id"
ERROR_TYPE = "error.type"
#: Of an event of the name `exception`.
EXCEPTION_TYPE = "exception.type"
