"""The server's gRPC side: the same calls, in Qdrant's own messages."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from qdrant_client import grpc as messages
from qdrant_client import models
from qdrant_client.conversions.conversion import GrpcToRest, RestToGrpc

from tests.server.backend import Backend, Cut, Refusal
from tests.server.rest import query_arguments
from tests.server.wire import Wire

Arguments = dict[str, Any]

_CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    404: grpc.StatusCode.NOT_FOUND,
    408: grpc.StatusCode.DEADLINE_EXCEEDED,
    409: grpc.StatusCode.ALREADY_EXISTS,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,  # gRPC has no other word for it
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    500: grpc.StatusCode.INTERNAL,
    503: grpc.StatusCode.UNAVAILABLE,
}


class RpcServer:
    """Listens on the loopback interface, behind a wire that can be cut.

    Attributes:
        port: Of the wire.
    """

    def __init__(self, backend: Backend, port: int = 0, credentials: grpc.ServerCredentials | None = None) -> None:
        self._backend = backend
        unlimited = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        self._server = grpc.server(ThreadPoolExecutor(max_workers=8), options=unlimited)
        messages.add_PointsServicer_to_server(Points(self), self._server)
        messages.add_CollectionsServicer_to_server(Collections(self), self._server)
        messages.add_QdrantServicer_to_server(Root(self), self._server)
        if credentials is None:
            behind = self._server.add_insecure_port("127.0.0.1:0")
        else:
            behind = self._server.add_secure_port("127.0.0.1:0", credentials)
        self._server.start()
        self._wire = Wire(behind, port)
        self.port = self._wire.port

    def answer(
        self,
        method: str,
        request: Any,
        context: grpc.ServicerContext,
        decode: Callable[[Any], Arguments],
        encode: Callable[[Any], Any],
    ) -> Any:
        """Apply one call, or end it as the client must see it end."""
        shown = {item.key: item.value for item in context.invocation_metadata()}
        try:
            arguments = decode(request)
            return encode(self._backend.handle(method, arguments, key=shown.get("api-key"), size=request.ByteSize()))
        except Refusal as refusal:
            if refusal.retry_after is not None:
                context.set_trailing_metadata((("retry-after", f"{refusal.retry_after:g}"),))
            context.abort(_CODES[refusal.status], str(refusal))
        except Cut:
            self._wire.cut(context.peer())
            context.abort(grpc.StatusCode.UNAVAILABLE, "nobody hears this")
        except Exception as error:
            self._backend.bugs.append(error)
            raise

    def close(self) -> None:
        """Break what is open and stop."""
        self._wire.close()
        self._server.stop(None).wait(5)


class Points(messages.PointsServicer):
    def __init__(self, server: RpcServer) -> None:
        self._answer = server.answer

    def Upsert(self, request: Any, context: Any) -> Any:
        return self._answer("upsert", request, context, _upsert, _updated)

    def Delete(self, request: Any, context: Any) -> Any:
        return self._answer("delete", request, context, _delete, _updated)

    def OverwritePayload(self, request: Any, context: Any) -> Any:
        return self._answer("overwrite_payload", request, context, _payload, _updated)

    def SetPayload(self, request: Any, context: Any) -> Any:
        return self._answer("set_payload", request, context, _payload, _updated)

    def CreateFieldIndex(self, request: Any, context: Any) -> Any:
        return self._answer("create_payload_index", request, context, _index, _updated)

    def UpdateBatch(self, request: Any, context: Any) -> Any:
        return self._answer("batch_update_points", request, context, _batch, _all_updated)

    def Get(self, request: Any, context: Any) -> Any:
        return self._answer("retrieve", request, context, _retrieve, _retrieved)

    def Scroll(self, request: Any, context: Any) -> Any:
        return self._answer("scroll", request, context, _scroll, _scrolled)

    def Count(self, request: Any, context: Any) -> Any:
        return self._answer("count", request, context, _count, _counted)

    def Query(self, request: Any, context: Any) -> Any:
        return self._answer("query_points", request, context, _query, _found)

    def QueryBatch(self, request: Any, context: Any) -> Any:
        return self._answer("query_batch_points", request, context, _queries, _all_found)


class Collections(messages.CollectionsServicer):
    def __init__(self, server: RpcServer) -> None:
        self._answer = server.answer

    def Get(self, request: Any, context: Any) -> Any:
        return self._answer("get_collection", request, context, _named, _described)

    def List(self, request: Any, context: Any) -> Any:
        return self._answer("get_collections", request, context, _nothing, _listed)

    def CollectionExists(self, request: Any, context: Any) -> Any:
        return self._answer("collection_exists", request, context, _named, _exists)

    def Create(self, request: Any, context: Any) -> Any:
        return self._answer("create_collection", request, context, _create, _done)

    def Update(self, request: Any, context: Any) -> Any:
        return self._answer("update_collection", request, context, _update, _done)

    def Delete(self, request: Any, context: Any) -> Any:
        return self._answer("delete_collection", request, context, _named, _done)

    def UpdateAliases(self, request: Any, context: Any) -> Any:
        return self._answer("update_collection_aliases", request, context, _changes, _done)

    def ListAliases(self, request: Any, context: Any) -> Any:
        return self._answer("get_aliases", request, context, _nothing, _aliases)

    def ListCollectionAliases(self, request: Any, context: Any) -> Any:
        return self._answer("get_collection_aliases", request, context, _named, _aliases)


class Root(messages.QdrantServicer):
    def __init__(self, server: RpcServer) -> None:
        self._answer = server.answer

    def HealthCheck(self, request: Any, context: Any) -> Any:
        return self._answer("info", request, context, _nothing, RestToGrpc.convert_health_check_reply)


def _nothing(given: Any) -> Arguments:
    return {}


def _named(given: Any) -> Arguments:
    return {"collection_name": given.collection_name}


def _filter(given: Any, field: str) -> models.Filter | None:
    return GrpcToRest.convert_filter(getattr(given, field)) if given.HasField(field) else None


def _with(given: Any) -> Arguments:
    payload, vectors = given.HasField("with_payload"), given.HasField("with_vectors")
    return {
        "with_payload": GrpcToRest.convert_with_payload_interface(given.with_payload) if payload else False,
        "with_vectors": GrpcToRest.convert_with_vectors_selector(given.with_vectors) if vectors else False,
    }


def _upsert(given: Any) -> Arguments:
    mode = GrpcToRest.convert_update_mode(given.update_mode) if given.HasField("update_mode") else None
    return _named(given) | {
        "points": [_point(point) for point in given.points],
        "update_filter": _filter(given, "update_filter"),
        "update_mode": mode,
    }


def _point(given: Any) -> models.PointStruct:
    vectors = given.HasField("vectors") and given.vectors.WhichOneof("vectors_options") is not None
    return models.PointStruct(
        id=GrpcToRest.convert_point_id(given.id),
        vector=GrpcToRest.convert_vectors(given.vectors) if vectors else {},
        payload=GrpcToRest.convert_payload(given.payload),
    )


def _payload(given: Any) -> Arguments:
    return _named(given) | {
        "payload": GrpcToRest.convert_payload(given.payload),
        "points": GrpcToRest.convert_points_selector(given.points_selector),
    }


def _index(given: Any) -> Arguments:
    if given.HasField("field_index_params"):
        schema: Any = GrpcToRest.convert_payload_schema_params(given.field_index_params)
    else:
        kind = messages.FieldType.Name(given.field_type).removeprefix("FieldType").lower()
        schema = models.PayloadSchemaType(kind)
    return _named(given) | {"field_name": given.field_name, "field_schema": schema}


def _retrieve(given: Any) -> Arguments:
    return _named(given) | _with(given) | {"ids": [GrpcToRest.convert_point_id(one) for one in given.ids]}


def _scroll(given: Any) -> Arguments:
    return (
        _named(given)
        | _with(given)
        | {
            "scroll_filter": _filter(given, "filter"),
            "limit": given.limit if given.HasField("limit") else 10,
            "offset": GrpcToRest.convert_point_id(given.offset) if given.HasField("offset") else None,
            "order_by": GrpcToRest.convert_order_by(given.order_by) if given.HasField("order_by") else None,
        }
    )


def _query(given: Any) -> Arguments:
    return _named(given) | query_arguments(GrpcToRest.convert_query_points(given))


def _create(given: Any) -> Arguments:
    vectors, small = given.HasField("vectors_config"), given.HasField("quantization_config")
    return _named(given) | {
        "vectors_config": _vectors(given.vectors_config) if vectors else {},
        "quantization_config": GrpcToRest.convert_quantization_config(given.quantization_config) if small else None,
        "metadata": GrpcToRest.convert_payload(given.metadata) if given.metadata else None,
    }


def _vectors(given: Any) -> models.VectorsConfig:
    return GrpcToRest.convert_vectors_config(given) if given.WhichOneof("config") is not None else {}


def _update(given: Any) -> Arguments:
    return _named(given) | {"metadata": GrpcToRest.convert_update_collection(given).metadata}


def _delete(given: Any) -> Arguments:
    return _named(given) | {"points_selector": GrpcToRest.convert_points_selector(given.points)}


def _batch(given: Any) -> Arguments:
    operations = [GrpcToRest.convert_points_update_operation(one) for one in given.operations]
    return _named(given) | {"update_operations": operations}


def _count(given: Any) -> Arguments:
    return _named(given) | {"count_filter": _filter(given, "filter"), "exact": given.exact}


def _queries(given: Any) -> Arguments:
    return _named(given) | {"requests": [GrpcToRest.convert_query_points(one) for one in given.query_points]}


def _changes(given: Any) -> Arguments:
    return {"change_aliases_operations": [GrpcToRest.convert_alias_operations(one) for one in given.actions]}


def _updated(found: models.UpdateResult) -> Any:
    return messages.PointsOperationResponse(result=RestToGrpc.convert_update_result(found))


def _all_updated(found: list[models.UpdateResult]) -> Any:
    return messages.UpdateBatchResponse(result=[RestToGrpc.convert_update_result(one) for one in found])


def _record(found: models.Record) -> Any:
    payload = found.payload if found.payload is not None else {}  # gRPC tells no payload from an empty one
    return RestToGrpc.convert_retrieved_point(found.model_copy(update={"payload": payload}))


def _retrieved(found: list[models.Record]) -> Any:
    return messages.GetResponse(result=[_record(one) for one in found])


def _scrolled(found: tuple[list[models.Record], models.ExtendedPointId | None]) -> Any:
    records, offset = found
    following = None if offset is None else RestToGrpc.convert_extended_point_id(offset)
    return messages.ScrollResponse(result=[_record(one) for one in records], next_page_offset=following)


def _counted(found: models.CountResult) -> Any:
    return messages.CountResponse(result=RestToGrpc.convert_count_result(found))


def _points(found: models.QueryResponse) -> list[Any]:
    return [RestToGrpc.convert_scored_point(_with_payload(one)) for one in found.points]


def _with_payload(found: models.ScoredPoint) -> models.ScoredPoint:
    return found.model_copy(update={"payload": found.payload if found.payload is not None else {}})


def _found(found: models.QueryResponse) -> Any:
    return messages.QueryResponse(result=_points(found))


def _all_found(found: list[models.QueryResponse]) -> Any:
    return messages.QueryBatchResponse(result=[messages.BatchResult(result=_points(one)) for one in found])


def _described(found: models.CollectionInfo) -> Any:
    return messages.GetCollectionInfoResponse(result=RestToGrpc.convert_collection_info(found))


def _listed(found: models.CollectionsResponse) -> Any:
    described = [RestToGrpc.convert_collection_description(one) for one in found.collections]
    return messages.ListCollectionsResponse(collections=described)


def _exists(found: bool) -> Any:
    return messages.CollectionExistsResponse(result=messages.CollectionExists(exists=found))


def _done(found: bool) -> Any:
    return messages.CollectionOperationResponse(result=found)


def _aliases(found: models.CollectionsAliasesResponse) -> Any:
    return messages.ListAliasesResponse(aliases=[RestToGrpc.convert_alias_description(one) for one in found.aliases])
