"""A router of this package as the routing strategy of a litellm `Router`."""

from typing import Any

from litellm.types.router import CustomRoutingStrategyBase

from routerlab.core.pools import Pool
from routerlab.routers.protocol import RouterError, as_queries
from routerlab.serve.upstream import text_of


class RouterLabStrategy(CustomRoutingStrategyBase):
    """`litellm_router.set_custom_routing_strategy(RouterLabStrategy(router, pool, litellm_router))`: of the deployments
    of the model group that is asked for, the one whose `model_info.id` is the model of `pool` that `router` names.
    """

    def __init__(self, router: Any, pool: Pool, litellm_router: Any) -> None:
        self.router, self.pool, self.litellm_router = router, pool, litellm_router

    def get_available_deployment(
        self, model, messages=None, input=None, specific_deployment=False, request_kwargs=None
    ) -> Any:
        asked = next((m for m in reversed(messages or []) if m.get("role") == "user"), {"content": str(input or "")})
        decided = self.router.route(as_queries([text_of(asked) or " "]), self.pool)
        name = decided.models[decided.choice[0]]
        for deployment in self.litellm_router.model_list:
            if deployment["model_name"] == model and deployment["model_info"]["id"] == name:
                return deployment
        raise RouterError(
            f"model group {model!r} has no deployment with model_info id {name!r}; add one for each model"
        )

    async def async_get_available_deployment(
        self, model, messages=None, input=None, specific_deployment=False, request_kwargs=None
    ) -> Any:
        return self.get_available_deployment(model, messages, input)
