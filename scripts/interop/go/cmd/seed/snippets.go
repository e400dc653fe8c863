// Every Go snippet of the published document "GPU Reservations", as it stands there. Lines that end in //+ are this
// program's own: what the snippets leave to their reader, and the checks. tests/test_interop.py compares the two.
package main

import (
	"context"
	"errors" //+
	"fmt"    //+
	"log"    //+
	"time"   //+

	pb "github.com/aiserve/gpuproxy/proto"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"  //+
	"google.golang.org/grpc/status" //+
)

func main() {
    conn, _ := grpc.Dial("localhost:9090", grpc.WithInsecure())
    client := pb.NewGPUProxyServiceClient(conn)

    // Login and get token (see examples for full auth flow)
    ctx := /* authenticated context */ authenticated()

    // Reserve 4 GPUs
    resp, err := client.ReserveGPUs(ctx, &pb.ReserveGPUsRequest{
        Count:    4,
        Provider: "vast.ai",
        MinVram:  16,
        MaxPrice: 2.0,
    })
	must("Quick Start: ReserveGPUs", err, resp.GetReservedCount() == 4) //+

    // Use reserved GPUs
    for _, gpu := range resp.ReservedInstances {
        contractID := gpu.Metadata["contract_id"]
        // Work with GPU...
		must("Quick Start: contract "+contractID, nil, contractID != "" && gpu.Status == "reserved") //+
    }
	theRest(ctx, client, resp) //+
}

func setStrategy(ctx context.Context, client pb.GPUProxyServiceClient) { //+
client.SetLoadBalancerStrategy(ctx, &pb.SetLoadBalancerStrategyRequest{
    Strategy: "least_connections",
})
} //+

func filters() []*pb.ReserveGPUsRequest { //+
	var all []*pb.ReserveGPUsRequest //+
	{ //+
req := &pb.ReserveGPUsRequest{
    MinVram: 40,  // A100 or better
}
		all = append(all, req) //+
	} //+
	{ //+
req := &pb.ReserveGPUsRequest{
    MaxPrice: 2.50,  // Max $2.50/hour
}
		all = append(all, req) //+
	} //+
	{ //+
req := &pb.ReserveGPUsRequest{
    Provider: "vast.ai",  // or "io.net" or "" for all
}
		all = append(all, req) //+
	} //+
	{ //+
req := &pb.ReserveGPUsRequest{
    Count:    8,
    Provider: "vast.ai",
    MinVram:  24,      // RTX 3090 or better
    MaxPrice: 1.50,    // Under $1.50/hour
}
		all = append(all, req) //+
	} //+
	return all //+
} //+

type ReserveGPUsResponse struct {
    ReservedInstances []*GPUInstance  // Details of reserved GPUs
    ReservedCount     int32            // Number successfully reserved
    Message           string           // Status message
}

type GPUInstance struct {
    Id            string              // Instance ID
    Provider      string              // vast.ai or io.net
    Status        string              // "reserved"
    PricePerHour  float64            // $/hour
    VramGb        int32              // VRAM in GB
    GpuModel      string             // e.g., "RTX 4090"
    NumGpus       int32              // Number of GPUs
    Location      string             // Datacenter location
    Metadata      map[string]string  // Includes contract_id
}

func codeOf(ctx context.Context, client pb.GPUProxyServiceClient, req *pb.ReserveGPUsRequest) string { //+
resp, err := client.ReserveGPUs(ctx, req)
if err != nil {
    st, _ := status.FromError(err)
    switch st.Code() {
    case codes.InvalidArgument:
        // Count not between 1-16
		return "InvalidArgument" //+
    case codes.FailedPrecondition:
        // Not enough instances available
		return "FailedPrecondition" //+
    case codes.Internal:
        // Instance creation failed
		return "Internal" //+
    }
}
	return fmt.Sprint(resp, err) //+
} //+

func partialSuccess(ctx context.Context, client pb.GPUProxyServiceClient) *pb.ReserveGPUsResponse { //+
resp, err := client.ReserveGPUs(ctx, &pb.ReserveGPUsRequest{
    Count: 10,
})
	must("Partial Success: ReserveGPUs without filters", err, resp.GetReservedCount() > 0) //+

// Check if all succeeded
if resp.ReservedCount < 10 {
    log.Printf("Only reserved %d of 10 GPUs", resp.ReservedCount)
    log.Printf("Message: %s", resp.Message)
}

// Still use the ones that succeeded
for _, gpu := range resp.ReservedInstances {
    // Work with GPU...
		used(gpu) //+
}
	return resp //+
} //+

func costs(resp *pb.ReserveGPUsResponse) (float64, float64, float64, float64) { //+
totalCost := 0.0
for _, gpu := range resp.ReservedInstances {
    totalCost += gpu.PricePerHour
}
fmt.Printf("Total: $%.2f/hour\n", totalCost)

dailyCost := totalCost * 24
weeklyCost := totalCost * 24 * 7
monthlyCost := totalCost * 24 * 30

fmt.Printf("Daily: $%.2f\n", dailyCost)
fmt.Printf("Weekly: $%.2f\n", weeklyCost)
fmt.Printf("Monthly: $%.2f\n", monthlyCost)
	return totalCost, dailyCost, weeklyCost, monthlyCost //+
} //+

func checkFirst(ctx context.Context, client pb.GPUProxyServiceClient, desiredCount int32, req *pb.ReserveGPUsRequest) { //+
// List to see what's available
instances, _ := client.ListGPUInstances(ctx, &pb.ListGPUInstancesRequest{
    Provider: "all",
    MinVram:  24,
    MaxPrice: 2.0,
})

if instances.TotalCount < desiredCount {
    // Not enough available
    return
}

// Now reserve
resp, _ := client.ReserveGPUs(ctx, req)
	must("Check Availability First: list, then reserve", nil, resp.GetReservedCount() == desiredCount) //+
	giveBack(ctx, client, resp) //+
} //+

func appropriate() (requests []*pb.ReserveGPUsRequest) { //+
	{ //+
// Too broad - may get expensive GPUs
req := &pb.ReserveGPUsRequest{
    Count: 10,
}
		requests = append(requests, req) //+
	} //+

	{ //+
// Better - specify requirements
req := &pb.ReserveGPUsRequest{
    Count:    10,
    MinVram:  16,
    MaxPrice: 1.50,
    Provider: "vast.ai",
}
		requests = append(requests, req) //+
	} //+
	return requests //+
} //+

func handlePartial(ctx context.Context, client pb.GPUProxyServiceClient, req *pb.ReserveGPUsRequest) error { //+
resp, err := client.ReserveGPUs(ctx, req)
if err != nil {
    return err
}

successCount := resp.ReservedCount
if successCount < req.Count {
    // Decide: use partial results or retry?
    if successCount == 0 {
        return errors.New("no GPUs reserved")
    }
    log.Printf("Partial success: %d/%d", successCount, req.Count)
}

	defer giveBack(ctx, client, resp) //+
// Continue with what we got
return processGPUs(resp.ReservedInstances)
} //+

func contractIDs(ctx context.Context, client pb.GPUProxyServiceClient, resp *pb.ReserveGPUsResponse) { //+
type Reservation struct {
    InstanceID string
    ContractID string
    Provider   string
    CreatedAt  time.Time
}

reservations := []Reservation{}
for _, gpu := range resp.ReservedInstances {
    reservations = append(reservations, Reservation{
        InstanceID: gpu.Id,
        ContractID: gpu.Metadata["contract_id"],
        Provider:   gpu.Provider,
        CreatedAt:  time.Now(),
    })
}

// Store in database for later cleanup
db.SaveReservations(reservations)

// Destroy instances when no longer needed
for _, reservation := range reservations {
    client.DestroyGPUInstance(ctx, &pb.DestroyGPUInstanceRequest{
        Provider:   reservation.Provider,
        InstanceId: reservation.ContractID,
    })
}
} //+

func training(ctx context.Context, client pb.GPUProxyServiceClient) { //+
// Reserve 8x A100 GPUs for training
resp, _ := client.ReserveGPUs(ctx, &pb.ReserveGPUsRequest{
    Count:    8,
    MinVram:  40,  // A100
    MaxPrice: 3.0,
    Provider: "vast.ai",
})
	must("Machine Learning Training: 8 x 40 GB", nil, resp.GetReservedCount() == 8) //+

// Configure distributed training across GPUs
for i, gpu := range resp.ReservedInstances {
    rank := i
    // Set up training on GPU at rank i
		used(rank, gpu) //+
}
	giveBack(ctx, client, resp) //+
} //+

func inference(ctx context.Context, client pb.GPUProxyServiceClient) { //+
// Reserve 4 GPUs for batch processing
resp, _ := client.ReserveGPUs(ctx, &pb.ReserveGPUsRequest{
    Count:    4,
    MinVram:  24,
    MaxPrice: 1.50,
})
	must("Batch Inference: 4 x 24 GB", nil, resp.GetReservedCount() == 4) //+

// Distribute inference batches
batches := splitWork(dataset, len(resp.ReservedInstances))
for i, gpu := range resp.ReservedInstances {
    go processInference(gpu, batches[i])
}
	giveBack(ctx, client, resp) //+
} //+

func development(ctx context.Context, client pb.GPUProxyServiceClient) { //+
// Reserve 1-2 cheaper GPUs for testing
resp, _ := client.ReserveGPUs(ctx, &pb.ReserveGPUsRequest{
    Count:    1,
    MinVram:  8,
    MaxPrice: 0.50,  // Under $0.50/hour
})
	must("Development/Testing: 1 x 8 GB", nil, resp.GetReservedCount() == 1) //+
	giveBack(ctx, client, resp) //+
} //+

func monitoring(ctx context.Context, client pb.GPUProxyServiceClient, live int) { //+
// Get load balancer info
loadInfo, _ := client.GetLoadInfo(ctx, &pb.GetLoadInfoRequest{
    Type: "all",
})

fmt.Printf("Strategy: %s\n", loadInfo.CurrentStrategy)
fmt.Printf("Active connections: %d\n", len(loadInfo.ServerLoad))

for _, instance := range loadInfo.ServerLoad {
    fmt.Printf("  %s: %d connections, %.2fms avg\n",
        instance.InstanceId,
        instance.Connections,
        instance.AvgResponseTimeMs)
}
	must("Check Reservation Status: GetLoadInfo", nil, len(loadInfo.ServerLoad) == live) //+
	must("Set strategy", nil, loadInfo.CurrentStrategy == "least_connections") //+
} //+

func viewCosts(ctx context.Context, client pb.GPUProxyServiceClient) { //+
// Get recent transactions
txns, _ := client.GetTransactions(ctx, &pb.GetTransactionsRequest{
    Limit: 10,
})

totalSpent := 0.0
for _, txn := range txns.Transactions {
    if txn.Status == "completed" {
        totalSpent += txn.Amount
    }
}
fmt.Printf("Recent spending: $%.2f\n", totalSpent)
	must("View Costs: GetTransactions", nil, len(txns.Transactions) > 0) //+
} //+
