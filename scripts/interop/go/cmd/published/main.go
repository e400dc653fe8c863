// A client compiled from the contract as it was first published (published.proto): the service gpuproxy.GPUProxyService.
package main

import (
	"context"
	"fmt"
	"os"
	"time"

	pb "github.com/aiserve/gpuproxy/published"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

func must(what string, err error, holds bool) {
	if err != nil || !holds {
		fmt.Printf("FAIL go published: %s: %v\n", what, err)
		os.Exit(1)
	}
	fmt.Printf("ok   go published: %s\n", what)
}

func main() {
	conn, err := grpc.NewClient(os.Getenv("INTEROP_GRPC"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	must("connect", err, true)
	client := pb.NewGPUProxyServiceClient(conn)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()

	health, err := client.HealthCheck(ctx, &pb.HealthCheckRequest{})
	must("HealthCheck without a key", err, health.GetStatus() == "ok" && health.GetTimestamp() > 0)
	_, err = client.ListGPUInstances(ctx, &pb.ListGPUInstancesRequest{})
	must("no key is Unauthenticated", nil, status.Code(err) == codes.Unauthenticated)
	key, err := client.CreateAPIKey(ctx, &pb.CreateAPIKeyRequest{Name: "interop", Token: os.Getenv("INTEROP_KEY")})
	must("CreateAPIKey by the token in the request", err, key.GetApiKey() != "" && key.GetCreatedAt() > 0)
	ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+key.GetApiKey())

	offers, err := client.ListGPUInstances(ctx, &pb.ListGPUInstancesRequest{Provider: "vast.ai", MinVram: 16, MaxPrice: 2})
	must("ListGPUInstances", err, offers.GetTotalCount() > 0 && offers.Instances[0].VramGb >= 16)
	made, err := client.ReserveGPUs(ctx, &pb.ReserveGPUsRequest{Count: 2, Provider: "vast.ai", MinVram: 16, MaxPrice: 2})
	must("ReserveGPUs", err, made.GetReservedCount() == 2 && made.ReservedInstances[0].Status == "reserved")
	contract := made.ReservedInstances[0].Metadata["contract_id"]
	got, err := client.GetGPUInstance(ctx, &pb.GetGPUInstanceRequest{Provider: "vast.ai", InstanceId: contract})
	must("GetGPUInstance", err, got.GetInstance().GetId() == contract)
	single, err := client.CreateGPUInstance(ctx, &pb.CreateGPUInstanceRequest{Provider: "vast.ai", InstanceId: free(offers, made)})
	must("CreateGPUInstance", err, single.GetStatus() == "reserved" && single.GetInstanceId() != "")
	set, err := client.SetLoadBalancerStrategy(ctx, &pb.SetLoadBalancerStrategyRequest{Strategy: "least_connections"})
	must("SetLoadBalancerStrategy", err, set.GetSuccess())
	load, err := client.GetLoadInfo(ctx, &pb.GetLoadInfoRequest{Type: "server"})
	must("GetLoadInfo", err, len(load.GetServerLoad()) == len(made.ReservedInstances)+1)

	ids := []string{single.GetInstanceId()}
	for _, gpu := range made.ReservedInstances {
		ids = append(ids, gpu.Metadata["contract_id"])
	}
	for _, id := range ids {
		gone, err := client.DestroyGPUInstance(ctx, &pb.DestroyGPUInstanceRequest{Provider: "vast.ai", InstanceId: id})
		must("DestroyGPUInstance", err, gone.GetSuccess())
	}
	spent, err := client.GetTransactions(ctx, &pb.GetTransactionsRequest{Limit: 10})
	must("GetTransactions", err, len(spent.GetTransactions()) > 0 && spent.Transactions[0].Currency == "USD")

	_, err = client.ReserveGPUs(ctx, &pb.ReserveGPUsRequest{Count: 16, MinVram: 80, MaxPrice: 0.001})
	st := status.Convert(err)
	reason := ""
	for _, detail := range st.Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok {
			reason = info.Reason
		}
	}
	must("NOT_ENOUGH_GPUS with its ErrorInfo", nil, st.Code() == codes.FailedPrecondition && reason == "NOT_ENOUGH_GPUS")
}

func free(offers *pb.ListGPUInstancesResponse, made *pb.ReserveGPUsResponse) string {
	taken := map[string]bool{}
	for _, gpu := range made.ReservedInstances {
		taken[gpu.Id] = true
	}
	for at := len(offers.Instances) - 1; at >= 0; at-- {
		if one := offers.Instances[at]; one.NumGpus == 1 && !taken[one.Id] {
			return one.Id
		}
	}
	return ""
}
