"""Behaviors of real servers, after their documentation or public reports."""

import email.utils

import httpx2
import virtual
from behaviors import (
  TOKENS_OUT,
  Vendor,
  at_once,
  blanks_before_the_body,
  cut,
  error,
  first,
  has,
  has_system,
  plain,
  refuses,
  refuses_parameters,
  refusing,
  several,
  sleeps,
  spoils,
  streams,
  unsupported,
  usage_in_choices,
)

LATE = email.utils.formatdate(4_000_000_000, usegmt=True)  # by a clock that is decades ahead
LATER = email.utils.formatdate(4_000_000_002, usegmt=True)

VENDORS = {
  "OpenAI, a plain reply": Vendor("platform.openai.com/docs/api-reference/chat", plain()),
  "OpenAI, cached and reasoning tokens": Vendor(
    "platform.openai.com/docs/guides/reasoning",
    plain(usage=lambda i, o: {
      "prompt_tokens": i, "completion_tokens": o, "total_tokens": i + o,
      "prompt_tokens_details": {"cached_tokens": 0},
      "completion_tokens_details": {"reasoning_tokens": 20}})),
  "OpenAI o3-mini, temperature": Vendor(
    "community.openai.com/t/o3-mini-temperature", sent=6,
    behavior=refuses(has("temperature"), unsupported("temperature"))),
  "OpenAI o1, max_tokens": Vendor(
    "platform.openai.com/docs/guides/reasoning#limitations", sent=6,
    behavior=refuses(has("max_tokens"), error(
      400, "Unsupported parameter: 'max_tokens' is not supported with this model. Use"
      " 'max_completion_tokens' instead.", param="max_tokens", code="unsupported_parameter"))),
  "OpenAI o1-mini, system": Vendor(
    "github.com/openai/openai-python#1731", sent=6,
    behavior=refuses(has_system, error(
      400, "Unsupported value: 'messages[0].role' does not support 'system' with this model.",
      param="messages[0].role", code="unsupported_value"))),
  "OpenAI, a limit with reset headers": Vendor(
    "platform.openai.com/docs/guides/rate-limits", sent=5,
    behavior=first(error(429, "Rate limit reached", {
      "x-ratelimit-reset-requests": "1s", "x-ratelimit-remaining-requests": "0"}))),
  "OpenAI, a wait in the text": Vendor(
    "help.openai.com/en/articles/5955604", sent=5,
    behavior=first(error(429, "Rate limit reached for gpt-4o. Please try again in 1.2s."))),
  "OpenAI, no quota after three": refusing(
    "help.openai.com/en/articles/6891831",
    error(429, "You exceeded your current quota", code="insufficient_quota")),
  "OpenAI, a server error": Vendor(
    "platform.openai.com/docs/guides/error-codes", sent=5,
    behavior=first(error(500, "The server had an error while processing your request"))),
  "OpenAI, overloaded": Vendor(
    "platform.openai.com/docs/guides/error-codes", sent=5,
    behavior=first(error(503, "The engine is currently overloaded"))),
  "OpenAI, a refusal": Vendor(
    "platform.openai.com/docs/guides/structured-outputs#refusals", kept=0,
    behavior=plain(text=None, refusal="I can't assist with that.")),
  "OpenAI, a content filter": Vendor(
    "platform.openai.com/docs/api-reference/chat/object", plain(finish="content_filter"), kept=0),
  "OpenAI, thinking uses up the limit": Vendor(
    "github.com/openai/openai-python#2046", plain(text="", finish="length"), kept=0),
  "OpenAI, a deprecated model": refusing(
    "platform.openai.com/docs/deprecations",
    error(404, "The model has been deprecated", code="model_not_found")),
  "OpenAI, a key that was revoked": refusing(
    "platform.openai.com/docs/guides/error-codes",
    error(401, "Incorrect API key provided", code="invalid_api_key")),
  "Azure, filtered before the model": Vendor(
    "learn.microsoft.com/azure/ai-services/openai/concepts/content-filter", kept=6,
    behavior=first(error(400, "The response was filtered", code="content_filter"))),
  "Azure, retry after 8 seconds": Vendor(
    "learn.microsoft.com/azure/ai-services/openai/quotas-limits", sent=5,
    options={"max_wait": 60.0},
    behavior=first(error(429, "Requests have exceeded the rate. Please retry after 8 seconds."))),
  "Azure, no choices when filtered": Vendor(
    "github.com/openai/openai-python#863", sent=5,
    behavior=first(httpx2.Response(200, json={"choices": [], "usage": {}}))),
  "Anthropic, n must be 1": Vendor(
    "docs.anthropic.com/en/api/openai-sdk", sent=10,
    behavior=refuses(several, error(400, "n: Input should be less than or equal to 1"))),
  "Anthropic, credit balance": refusing(
    "docs.anthropic.com/en/api/errors",
    error(400, "Your credit balance is too low to access the Anthropic API.")),
  "Anthropic, overloaded": Vendor(
    "docs.anthropic.com/en/api/errors#http-errors", sent=5,
    behavior=first(error(529, "Overloaded", type="overloaded_error"))),
  "Anthropic, its own usage": Vendor(
    "docs.anthropic.com/en/api/messages", plain(
      finish="end_turn", usage=lambda i, o: {"input_tokens": i, "output_tokens": o})),
  "Anthropic, the context is full": Vendor(
    "docs.anthropic.com/en/build-with-claude/handling-stop-reasons", kept=0,
    behavior=plain(finish="model_context_window_exceeded")),
  "Anthropic, a usage limit": refusing(
    "support.anthropic.com/en/articles/8114526",
    error(400, "You have reached your specified API usage limits.")),
  "Gemini, thoughts only in the total": Vendor(
    "ai.google.dev/gemini-api/docs/openai#thinking", plain(
      hidden=30, usage=lambda i, o: {
        "prompt_tokens": i, "completion_tokens": o, "total_tokens": i + o + o * 30 // TOKENS_OUT})),
  "Gemini, RetryInfo": Vendor(
    "ai.google.dev/gemini-api/docs/rate-limits", sent=5, options={"max_wait": 60.0},
    behavior=first(error(
      429, "You exceeded your current quota, please check your plan and billing details.",
      details=[{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "17s"}]))),
  "Gemini, a quota per day": refusing(
    "github.com/google-gemini/gemini-cli#2305",
    error(429, "You exceeded your current quota.", details=[
      {"violations": [{"quotaId": "GenerateRequestsPerDayPerProjectPerModel-FreeTier"}]},
      {"retryDelay": "17s"}])),
  "Gemini, an error in a list": Vendor(
    "discuss.ai.google.dev/t/openai-compatibility-errors", sent=5,
    behavior=first(httpx2.Response(503, json=[{"error": {
      "code": 503, "message": "The model is overloaded", "status": "UNAVAILABLE"}}]))),
  "Gemini, safety": Vendor(
    "ai.google.dev/api/generate-content#FinishReason", plain(finish="SAFETY"), kept=0),
  "Gemini, an unknown field": Vendor(
    "discuss.ai.google.dev/t/unknown-name-seed", sent=6,
    behavior=refuses(has("seed"), httpx2.Response(400, json=[{"error": {
      "code": 400, "message": 'Invalid JSON payload received. Unknown name "seed": Cannot find'
      " field."}}]))),
  "Gemini, several candidates": Vendor(
    "ai.google.dev/api/generate-content#GenerationConfig", sent=10,
    behavior=refuses(several, error(400, "Multiple candidates is not enabled for this model"))),
  "Gemma at Google, system": Vendor(
    "discuss.ai.google.dev/t/gemma-3-developer-instruction", sent=6,
    behavior=refuses(has_system, error(
      400, "Developer instruction is not enabled for models/gemma-3-27b-it"))),
  "DeepSeek, tokens in its cache": Vendor(
    "api-docs.deepseek.com/guides/kv_cache", plain(usage=lambda i, o: {
      "prompt_tokens": i, "completion_tokens": o, "prompt_cache_hit_tokens": 0,
      "prompt_cache_miss_tokens": i})),
  "DeepSeek, no balance": refusing(
    "api-docs.deepseek.com/quick_start/error_codes", error(402, "Insufficient Balance")),
  "DeepSeek, interrupted": Vendor(
    "api-docs.deepseek.com/api/create-chat-completion", sent=5,
    behavior=first(httpx2.Response(200, json={
      "choices": [{"message": {"content": "Sev"}, "finish_reason": "insufficient_system_resource"}],
      "usage": {"prompt_tokens": 1, "completion_tokens": 1}}))),
  "DeepSeek, blank lines while it waits": Vendor(
    "api-docs.deepseek.com/quick_start/rate_limit", blanks_before_the_body()),
  "DeepSeek, thinking beside the answer": Vendor(
    "api-docs.deepseek.com/guides/reasoning_model", plain(reasoning_content="Let me see.")),
  "Mistral, an extra field": Vendor(
    "docs.mistral.ai/api", sent=6,
    behavior=refuses(has("seed"), httpx2.Response(422, json={"detail": [{
      "type": "extra_forbidden", "loc": ["body", "seed"],
      "msg": "Extra inputs are not permitted", "input": 0}]}))),
  "Mistral, the context is full": Vendor(
    "docs.mistral.ai/api#finish_reason", plain(finish="model_length"), kept=0),
  "Mistral, content in parts": Vendor(
    "docs.mistral.ai/capabilities/reasoning", plain(text=[
      {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
      {"type": "text", "text": "Seven."}])),
  "Mistral, a rate without a wait": Vendor(
    "help.mistral.ai/en/articles/424390", sent=5,
    behavior=first(error(429, "Service tier capacity exceeded for this model."))),
  "Groq, n at most 1": Vendor(
    "console.groq.com/docs/openai", sent=10,
    behavior=refuses(several, error(400, "'n' : number must be at most 1"))),
  "Groq, a decommissioned model": refusing(
    "console.groq.com/docs/deprecations",
    error(400, "The model `x` has been decommissioned and is no longer supported.",
          code="model_decommissioned")),
  "Groq, a wait in the text": Vendor(
    "console.groq.com/docs/rate-limits", sent=5,
    behavior=first(error(429, "Rate limit reached for model. Please try again in 2.5s.",
                         {"x-ratelimit-reset-tokens": "2.5s"}))),
  "Together, eos": Vendor("docs.together.ai/reference/chat-completions", plain(finish="eos")),
  "Together, a server that is gone for a while": Vendor(
    "docs.together.ai/docs/error-codes", sent=6,
    behavior=first(error(503, "Engine overloaded", {"retry-after": "2"}), count=2)),
  "Fireworks, a stream without usage": Vendor(
    "docs.fireworks.ai/guides/querying-text-models", streams(usage=False)),
  "OpenRouter, comments in a stream": Vendor(
    "openrouter.ai/docs/api-reference/streaming", streams(before=": OPENROUTER PROCESSING\n\n")),
  "OpenRouter, an error in a 200": Vendor(
    "openrouter.ai/docs/api-reference/errors", sent=5,
    behavior=first(httpx2.Response(200, json={"error": {"code": 429, "message": "Rate limited"}}))),
  "OpenRouter, an error in a choice": Vendor(
    "openrouter.ai/docs/api-reference/errors", sent=5, behavior=first(httpx2.Response(200, json={
      "choices": [{"message": {"content": "Sev"}, "finish_reason": "error",
                   "error": {"code": 502, "message": "Upstream"}}]}), billed=True)),
  "OpenRouter, more credits": refusing(
    "openrouter.ai/docs/api-reference/limits",
    error(402, "This request requires more credits, or fewer max_tokens.")),
  "OpenRouter, a reset in the body": Vendor(
    "openrouter.ai/docs/api-reference/limits", sent=5,
    behavior=first(error(429, "Rate limit exceeded", {"date": LATE}, metadata={
      "headers": {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "2000"}}),),
    options={"max_wait": 3000.0}),
  "xAI, reasoning outside of the completion": Vendor(
    "docs.x.ai/docs/guides/reasoning", plain(hidden=300, usage=lambda i, o: {
      "prompt_tokens": i, "completion_tokens": o,
      "completion_tokens_details": {"reasoning_tokens": o * 300 // TOKENS_OUT}})),
  "xAI, a spending limit": refusing(
    "docs.x.ai/docs/key-information/debugging",
    error(403, "Your team has reached its monthly spending limit.")),
  "Moonshot, a concurrency": Vendor(
    "platform.moonshot.ai/docs/pricing/limits", sent=5,
    behavior=at_once(1, error(429, "Your account reached max organization concurrency: 1, please"
                                   " try again after 1 seconds"))),
  "Moonshot, usage in the choice": Vendor(
    "platform.moonshot.ai/docs/api/chat", plain(usage=lambda i, o: None)),
  "Zhipu, sensitive": Vendor("docs.bigmodel.cn/api-reference", plain(finish="sensitive"), kept=0),
  "Zhipu, a network error": Vendor(
    "docs.bigmodel.cn/api-reference", sent=5, behavior=first(httpx2.Response(200, json={
      "choices": [{"message": {"content": "Sev"}, "finish_reason": "network_error"}]}),
      billed=True)),
  "Alibaba, in arrears": refusing(
    "alibabacloud.com/help/en/model-studio/error-code",
    error(400, "Access denied, please make sure your account is in good standing.",
          code="Arrearage")),
  "Alibaba QwQ, streams only": Vendor(
    "alibabacloud.com/help/en/model-studio/deep-thinking", streams(only=True), sent=6),
  "MiniMax, a rate in a 200": Vendor(
    "platform.minimax.io/docs/api-reference/errorcode", sent=5,
    behavior=first(httpx2.Response(200, json={
      "base_resp": {"status_code": 1002, "status_msg": "rate limit"}}))),
  "MiniMax, no balance in a 200": refusing(
    "platform.minimax.io/docs/api-reference/errorcode", httpx2.Response(200, json={
      "base_resp": {"status_code": 1008, "status_msg": "insufficient balance"}})),
  "Cohere, COMPLETE": Vendor("docs.cohere.com/docs/compatibility-api", plain(finish="COMPLETE")),
  "Cerebras, a property": Vendor(
    "inference-docs.cerebras.ai/resources/openai", sent=10,
    behavior=refuses(several, error(400, "property 'n' is unsupported", code="wrong_api_format"))),
  "Baidu, an error in a 200": Vendor(
    "cloud.baidu.com/doc/WENXINWORKSHOP/s/tlmyncueh", sent=5, behavior=first(
      httpx2.Response(200, json={"error_code": 336100, "error_msg": "try again"}), billed=True)),
  "Ollama, one choice whatever n": Vendor(
    "docs.ollama.com/openai", plain(choices=1), sent=8),
  "Ollama, a model that loads": Vendor(
    "github.com/ollama/ollama#1187", sleeps(8.0, count=2), sent=6),
  "llama-server, n above the slots": Vendor(
    "github.com/ggml-org/llama.cpp/tree/master/tools/server", sent=10,
    behavior=refuses(several, error(
      400, "n_cmpl cannot be greater than the number of slots, please increase -np"))),
  "llama-server, older: one choice": Vendor(
    "github.com/ggml-org/llama.cpp#7466", sent=10,
    behavior=refuses(several, error(500, "Only one completion choice is allowed"))),
  "llama-server, one slot": Vendor(
    "github.com/ggml-org/llama.cpp/tree/master/tools/server", sent=10,
    behavior=refuses(several, error(
      400, "Field 'n': Value must be between 1 <= value <= 1, but got 2", code=400))),
  "llama-server, a model that loads": Vendor(
    "github.com/ggml-org/llama.cpp/tree/master/tools/server", sent=24, options={"max_wait": 60.0},
    behavior=first(error(503, "Loading model", type="unavailable_error", code=503), count=20)),
  "llama-server, usage of the first choice": Vendor(
    "github.com/ggml-org/llama.cpp/tree/master/tools/server",
    plain(usage=lambda i, o: {"prompt_tokens": i, "completion_tokens": TOKENS_OUT},
          body={"timings": {"predicted_n": TOKENS_OUT}})),
  "Hugging Face, a model that loads": Vendor(
    "huggingface.co/docs/api-inference/detailed_parameters", sent=24, options={"max_wait": 60.0},
    behavior=first(count=20, response=httpx2.Response(
      503, json={"error": "Model m is currently loading", "estimated_time": 3.0}))),
  "LM Studio, a template without a system role": Vendor(
    "github.com/lmstudio-ai/lmstudio-bug-tracker", sent=6,
    behavior=refuses(has_system, error(
      400, "Error rendering prompt with jinja template: Only user and assistant roles are "
      "supported!"))),
  "vLLM, Gemma 2 has no system role": Vendor(
    "github.com/vllm-project/vllm#6045", sent=6,
    behavior=refuses(has_system, error(400, "System role not supported"))),
  "vLLM, roles must alternate": Vendor(
    "github.com/vllm-project/vllm#2112", sent=6, behavior=refuses(has_system, error(
      400, "Conversation roles must alternate user/assistant/user/assistant/..."))),
  "vLLM, an error object": Vendor(
    "docs.vllm.ai/en/latest/serving/openai_compatible_server", sent=5, behavior=first(
      httpx2.Response(200, json={"object": "error", "message": "oops", "code": 500}),
      billed=True)),
  "vLLM, abort of one choice": Vendor(
    "github.com/vllm-project/vllm#1707", sent=8,
    behavior=spoils({"message": {"content": "Sev"}, "finish_reason": "abort"})),
  "Gemini, no message where the filter ends a choice": Vendor(
    "github.com/bespokelabsai/curator#261", kept=6,
    behavior=spoils({"finish_reason": "content_filter: PROHIBITED_CONTENT"}, every=True)),
  "Gemini, no message at the limit": Vendor(
    "github.com/AsyncFuncAI/deepwiki-open#524", kept=6,
    behavior=spoils({"finish_reason": "FINISH_REASON_MAX_TOKENS", "message": None}, every=True)),
  "Gemini, cancelled": Vendor(
    "github.com/google-gemini/gemini-cli#20309", sent=5,
    behavior=first(error(499, "The operation was cancelled."), billed=True)),
  "Moonshot, usage in each choice of a stream": Vendor(
    "platform.moonshot.ai/docs/api/chat", usage_in_choices(), options={"stream": True}),
  "DeepSeek, the range of max_tokens": Vendor(
    "github.com/deepseek-ai/DeepSeek-V3#69", kept=0, behavior=refuses(has("max_tokens"), error(
      400, "Invalid max_tokens value, the valid range of max_tokens is [1, 8192]",
      type="invalid_request_error"))),
  "DashScope, the range of max_tokens": Vendor(
    "github.com/open-webui/open-webui#10507", kept=0, behavior=refuses(has("max_tokens"), error(
      400, "<400> InternalError.Algo.InvalidParameter: Range of max_tokens should be [1, 8192]"))),
  "Fireworks, a stream for many tokens": Vendor(
    "github.com/nullclaw/nullclaw#231", sent=6, behavior=refuses(
      lambda body: not body.get("stream"),
      error(400, "Requests with max_tokens > 4096 must have stream=true"))),
  "Anthropic, a limit below the thinking": Vendor(
    "docs.anthropic.com/en/docs/build-with-claude/extended-thinking", kept=0,
    behavior=refuses(has("max_tokens"), error(
      400, "`max_tokens` must be greater than `thinking.budget_tokens`"))),
  "OpenAI, a request above the limit of a minute": Vendor(
    "community.openai.com/t/request-too-large-for-gpt-4o", kept=6, behavior=first(error(
      429, "Request too large for gpt-4o on tokens per min (TPM): Limit 30000, Requested 35000."
      " The input or output tokens must be reduced in order to run successfully."))),
  "Groq, a request above the limit of a minute": Vendor(
    "console.groq.com/docs/errors", kept=6, behavior=first(error(
      413, "Request too large for model m on tokens per minute (TPM): Limit 6000"))),
  "a gateway that answers 201": Vendor(
    "docs.nestjs.com/controllers#status-code", plain(status=201)),
  "a gateway, n refused in a 200": Vendor(
    "github.com/songquanpeng/one-api", sent=10, behavior=refuses(several, httpx2.Response(
      200, json={"error": {"code": 400, "message": "'n' is not supported by this model"}}))),
  "a gateway, a text as error in a 200": Vendor(
    "github.com/songquanpeng/one-api", sent=5, options={"max_wait": 60.0}, behavior=first(
      httpx2.Response(200, json={"error": "upstream load balancer: failed to generate, invalid"}))),
  "vLLM, abort": Vendor(
    "github.com/vllm-project/vllm#1707", sent=5, behavior=first(httpx2.Response(200, json={
      "choices": [{"message": {"content": "Sev"}, "finish_reason": "abort"}]}), billed=True)),
  "SGLang, no usage": Vendor("docs.sglang.ai/backend/openai_api", plain(usage=lambda i, o: None)),
  "LM Studio, usage of zeros": Vendor(
    "lmstudio.ai/docs/app/api/endpoints/openai", plain(usage=lambda i, o: {
      "prompt_tokens": 0, "completion_tokens": 0})),
  "text-generation-inference, eos_token": Vendor(
    "huggingface.co/docs/text-generation-inference", plain(finish="eos_token")),
  "litellm, a wait of its upstream": Vendor(
    "docs.litellm.ai/docs/proxy/response_headers", sent=5, options={"max_wait": 60.0},
    behavior=first(error(
      429, "litellm.RateLimitError: Model rate limit exceeded. RPM limit=2, current usage=3",
      {"llm_provider-retry-after": "30"}, type="throttling_error", code="429"))),
  "litellm, all deployments cool down": Vendor(
    "docs.litellm.ai/docs/routing#cooldowns", sent=6, options={"max_wait": 60.0},
    behavior=first(count=2, response=error(
      429, "No deployments available for selected model, Try again in 5 seconds. Passed model=m",
      type="throttling_error", code="429"))),
  "litellm, a budget": refusing(
    "docs.litellm.ai/docs/proxy/users", error(
      422, "Budget has been exceeded! Current cost: 1.2, Max budget: 1.0",
      type="budget_exceeded", code="422")),
  "litellm, the budget of a deployment": refusing(
    "docs.litellm.ai/docs/proxy/provider_budget_routing", error(
      429, "No deployments available - crossed budget: Exceeded budget for deployment",
      type="internal_server_error", code="429")),
  "litellm, a stream that ends one of several samples": Vendor(
    "docs.litellm.ai/docs/completion/stream", streams(ends=1), sent=8, options={"stream": True}),
  "litellm, the same without usage": Vendor(
    "docs.litellm.ai/docs/completion/stream", streams(ends=1, usage=False), sent=8,
    options={"stream": True}),
  "litellm, a vendor that takes neither n nor seed": Vendor(
    "docs.litellm.ai/docs/completion/drop_params", refuses_parameters("n", "seed"), sent=12),
  "litellm, a wrong key": refusing(
    "docs.litellm.ai/docs/proxy/virtual_keys",
    error(400, "No connected db.", type="no_db_connection", code="400"), replies=0),
  "litellm, an unknown model": refusing(
    "docs.litellm.ai/docs/proxy/configs", error(
      400, "/chat/completions: Invalid model name passed in model=m. Call `/v1/models`",
      type="invalid_request_error", code="400"), replies=0),
  "litellm, filtered by its upstream": Vendor(
    "docs.litellm.ai/docs/exception_mapping", kept=6, behavior=first(error(
      400, "litellm.BadRequestError: OpenAIException - The response was filtered due to the prompt"
      " triggering Azure OpenAI's content management policy.", code="400"))),
  "OpenRouter, an invalid model": refusing(
    "openrouter.ai/docs/api-reference/errors",
    error(400, "m is not a valid model ID", code=400), replies=0),
  "OpenRouter, a moderated question": Vendor(
    "openrouter.ai/docs/api-reference/errors", kept=6, behavior=first(error(
      403, "Your chosen model requires moderation and your input was flagged.", code=403))),
  "xAI, a question against its guidelines": Vendor(
    "docs.x.ai/docs/key-information/debugging", kept=6, behavior=first(error(
      403, "Content violates usage guidelines. Failed check: SAFETY_CHECK_TYPE_BIO"))),
  "xAI, a wrong key": refusing(
    "docs.x.ai/docs/key-information/debugging",
    error(400, "Incorrect API key provided: xa***. You can obtain one"), replies=0),
  "Gemini, a wrong key": refusing(
    "ai.google.dev/gemini-api/docs/troubleshooting", httpx2.Response(400, json=[{"error": {
      "code": 400, "message": "API key not valid. Please pass a valid API key.",
      "status": "INVALID_ARGUMENT"}}]), replies=0),
  "DeepSeek, a question at risk": Vendor(
    "api-docs.deepseek.com/quick_start/error_codes", kept=6,
    behavior=first(error(400, "Content Exists Risk", code="invalid_request_error"))),
  "Alibaba, an inspected question": Vendor(
    "help.aliyun.com/zh/model-studio/error-code", kept=6, behavior=first(error(
      400, "Input data may contain inappropriate content.", code="data_inspection_failed"))),
  "Azure, a wait in its own header": Vendor(
    "learn.microsoft.com/azure/ai-services/openai/how-to/quota", sent=5,
    options={"max_wait": 60.0}, behavior=first(error(
      429, "Requests have exceeded the call rate limit", {"x-ms-retry-after-ms": "30000"}))),
  "litellm, the upstream timed out": Vendor(
    "docs.litellm.ai/docs/exception_mapping", sent=5,
    behavior=first(error(408, "litellm.Timeout: APITimeoutError"), billed=True)),
  "Cloudflare, 524": Vendor(
    "developers.cloudflare.com/support/troubleshooting/http-status-codes", sent=5,
    behavior=first(httpx2.Response(524, text="<html>A timeout occurred"), billed=True)),
  "nginx, 502": Vendor(
    "nginx.org/en/docs/http/ngx_http_proxy_module", sent=6,
    behavior=first(httpx2.Response(502, text="<html>502 Bad Gateway"), count=2, billed=True)),
  "nginx, 504": Vendor(
    "nginx.org/en/docs/http/ngx_http_proxy_module", sent=5,
    behavior=first(httpx2.Response(504, text="<html>504 Gateway Time-out"), billed=True)),
  "a connection that is reset": Vendor(
    "github.com/openai/openai-python#1764", sent=5,
    behavior=first(virtual.reset(), billed=True)),
  "a body that is cut": Vendor("github.com/encode/httpx#1171", cut(60), sent=5),
  "a timeout that is billed": Vendor(
    "github.com/RISE-UNIBAS/humanities_data_benchmark#110", sleeps(100.0, count=2), sent=6),
  "a date by another clock": Vendor(
    "rfc-editor.org/rfc/rfc9110#field.retry-after", sent=5,
    behavior=first(error(429, "Slow down", {"date": LATE, "retry-after": LATER}))),
  "usage in floats": Vendor("github.com/BerriAI/litellm#7341", plain(usage=lambda i, o: {
    "prompt_tokens": float(i), "completion_tokens": float(o)})),
  "usage in strings": Vendor("github.com/BerriAI/litellm#7341", plain(usage=lambda i, o: {
    "prompt_tokens": str(i), "completion_tokens": str(o)})),
  "usage below zero": Vendor("github.com/vllm-project/vllm#9693", plain(usage=lambda i, o: {
    "prompt_tokens": -1, "completion_tokens": -1})),
}  # fmt: skip
