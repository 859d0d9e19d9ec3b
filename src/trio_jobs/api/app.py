"""`create_app`: the routes, on an application of their own."""

from quart import Blueprint
from quart_trio import QuartTrio

from trio_jobs.api.batch import add_batch_route
from trio_jobs.api.context import ApiContext
from trio_jobs.api.error_handlers import register_problems
from trio_jobs.api.health import add_health_routes
from trio_jobs.api.job_routes import add_job_routes
from trio_jobs.api.listing import add_listing_route
from trio_jobs.api.openapi import add_openapi_route
from trio_jobs.api.options import answer_options
from trio_jobs.api.quart_adapter import JobRequest, RequestAdapter
from trio_jobs.api.query_params import refuse_parameters
from trio_jobs.api.stream import add_stream_route
from trio_jobs.api.submit import add_submit_route


def create_app(context: ApiContext) -> QuartTrio:
    """The application with all routes."""
    app = QuartTrio("trio_jobs", static_folder=None)
    app.request_class = JobRequest
    app.asgi_http_class = RequestAdapter
    # A redirect to the tidy path would drop a POST's body.
    app.url_map.merge_slashes = False
    register_problems(app)
    routes = Blueprint("trio_jobs", __name__)
    answer_options(routes)  # first: one of a path's methods may have parameters
    refuse_parameters(routes, except_on="list_jobs")
    add_submit_route(routes, context)
    add_batch_route(routes, context)
    add_stream_route(routes, context)
    add_listing_route(routes, context)
    add_job_routes(routes, context)
    add_health_routes(routes, context)
    add_openapi_route(routes, context)
    app.register_blueprint(routes)
    return app
