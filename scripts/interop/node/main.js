// The main job from Node with @grpc/grpc-js: by our contract, and once more by the contract as it was first published.
"use strict";

const path = require("path");
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");
const protobuf = require("protobufjs");

const { INTEROP_GRPC, INTEROP_KEY, INTEROP_PROTO, INTEROP_PUBLISHED, INTEROP_GOOGLE } = process.env;
const OPTIONS = { keepCase: true, longs: Number, defaults: true, includeDirs: [INTEROP_PROTO, INTEROP_GOOGLE] };

function must(what, holds) {
  if (!holds) {
    console.log(`FAIL node: ${what}`);
    process.exit(1);
  }
  console.log(`ok   node: ${what}`);
}

function clientOf(file, name) {
  const service = name.split(".").reduce((at, part) => at[part], grpc.loadPackageDefinition(loader.loadSync(file, OPTIONS)));
  const client = new service(INTEROP_GRPC, grpc.credentials.createInsecure());
  const metadata = new grpc.Metadata();
  metadata.set("x-api-key", INTEROP_KEY);
  const deadline = () => ({ deadline: Date.now() + 60_000 });
  const call = (method, request) =>
    new Promise((resolve, reject) =>
      client[method](request, metadata, deadline(), (error, answer) => (error ? reject(error) : resolve(answer))));
  const watch = (request) => client.WatchReservation(request, metadata, deadline());
  return { call, watch, close: () => client.close() };
}

function details(error) {
  const root = new protobuf.Root();
  root.resolvePath = (_, target) => (target.startsWith("google/rpc") ? path.join(INTEROP_GOOGLE, target) : target);
  root.loadSync(["google/rpc/status.proto", "google/rpc/error_details.proto"]);
  const status = root.lookupType("google.rpc.Status").decode(error.metadata.get("grpc-status-details-bin")[0]);
  return Object.fromEntries(status.details.map((any) => {
    const type = any.type_url.split("/").pop();
    return [type, root.lookupType(type).decode(any.value)];
  }));
}

async function refused(promise) {
  try {
    await promise;
  } catch (error) {
    return error;
  }
  throw new Error("the call was not refused");
}

async function ours() {
  const client = clientOf("gpuproxy/v1/gpuproxy.proto", "gpuproxy.v1.GPUProxyService");
  const market = await client.call("ListGPUInstances", { provider: "vast.ai", min_vram: 16, max_price: 2.0 });
  must(`list: ${market.total_count} offers`, market.instances.every((gpu) => gpu.vram_gb >= 16) && market.total_count > 0);

  const demand = { count: 2, provider: "vast.ai", min_vram: 16, max_price: 2.0, request_id: `node-${process.pid}` };
  const made = await client.call("ReserveGPUs", demand);
  must("reserve", made.reserved_count === 2 && made.reserved_instances.every((gpu) => gpu.metadata.contract_id));
  const again = await client.call("ReserveGPUs", demand);
  must("reserve again with the same request_id is the same", again.reservation_id === made.reservation_id);

  const states = [];
  const stream = client.watch({ reservation_id: made.reservation_id });
  for await (const answer of stream) {
    states.push(answer.reservation.state);
    if (answer.reservation.state === "active") break;
  }
  stream.on("error", () => {}); // the end that we ask for
  stream.cancel();
  must(`watch: ${states.join(", ")}`, states.at(-1) === "active");

  const load = await client.call("GetLoadInfo", { type: "server" });
  must("load", load.server_load.length === made.reserved_instances.length && load.current_strategy !== "");
  for (const gpu of made.reserved_instances) {
    const gone = await client.call("DestroyGPUInstance", { provider: "vast.ai", instance_id: gpu.metadata.contract_id });
    must(`destroy ${gpu.metadata.contract_id}: ${gone.state}`, gone.success);
  }

  const over = await client.call("ReserveGPUs", demand);
  must(`a repeat after the end: ${over.state}`, over.reserved_count === 0 && ["releasing", "released"].includes(over.state) &&
    over.message.includes("use another request_id"));

  const wrong = await refused(client.call("ReserveGPUs", { count: 17 }));
  const bad = details(wrong);
  must("an error names the field", wrong.code === grpc.status.INVALID_ARGUMENT &&
    bad["google.rpc.BadRequest"].fieldViolations[0].field === "count");
  const many = await refused(client.call("ReserveGPUs", { count: 16, min_vram: 80, max_price: 0.001 }));
  const info = details(many)["google.rpc.ErrorInfo"];
  must("an error has a reason and what varies", many.code === grpc.status.FAILED_PRECONDITION &&
    info.reason === "NOT_ENOUGH_GPUS" && info.metadata.requested === "16");
  client.close();
}

async function published() {
  const client = clientOf(INTEROP_PUBLISHED, "gpuproxy.GPUProxyService");
  const made = await client.call("ReserveGPUs", { count: 1, provider: "vast.ai", min_vram: 16, max_price: 2.0 });
  const [gpu] = made.reserved_instances;
  must("published name: reserve", made.reserved_count === 1 && gpu.status === "reserved");
  const gone = await client.call("DestroyGPUInstance", { provider: "vast.ai", instance_id: gpu.metadata.contract_id });
  must("published name: destroy", gone.success);
  client.close();
}

ours().then(published).catch((error) => {
  console.log(`FAIL node: ${error.stack}`);
  process.exit(1);
});
