"""The bodies of answers, as the OpenAPI document describes them, by what they are about."""
