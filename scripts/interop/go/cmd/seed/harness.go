package main

import (
	"context"
	"fmt"
	"math"
	"os"
	"reflect"

	pb "github.com/aiserve/gpuproxy/proto"
	"google.golang.org/grpc/metadata"
)

// What the snippets call without saying what it is.
type store struct{}

func (store) SaveReservations(reservations any) { used(reservations) }

var (
	db      store
	dataset []int
)

func used(...any)                                   {}
func processGPUs([]*pb.GPUInstance) error           { return nil }
func processInference(gpu *pb.GPUInstance, part int) { used(gpu, part) }
func splitWork(_ []int, parts int) []int            { return make([]int, parts) }

func authenticated() context.Context {
	return metadata.AppendToOutgoingContext(context.Background(), "x-api-key", os.Getenv("INTEROP_KEY"))
}

func must(what string, err error, holds bool) {
	if err != nil || !holds {
		fmt.Printf("FAIL go: %s: %v\n", what, err)
		os.Exit(1)
	}
	fmt.Printf("ok   go: %s\n", what)
}

func giveBack(ctx context.Context, client pb.GPUProxyServiceClient, resp *pb.ReserveGPUsResponse) {
	_, err := client.ReleaseReservation(ctx, &pb.ReleaseReservationRequest{ReservationId: resp.ReservationId})
	must("ReleaseReservation", err, true)
}

func theRest(ctx context.Context, client pb.GPUProxyServiceClient, first *pb.ReserveGPUsResponse) {
	setStrategy(ctx, client)
	monitoring(ctx, client, len(first.ReservedInstances))
	hour, day, week, month := costs(first)
	sum := math.Abs(hour-first.PricePerHour) < 1e-9
	must("Cost Estimation", nil, sum && day == hour*24 && week == hour*24*7 && month == hour*24*30)
	contractIDs(ctx, client, first)
	rented, err := client.ListGPUInstances(ctx, &pb.ListGPUInstancesRequest{State: "rented"})
	left := 0
	for _, gpu := range rented.GetInstances() {
		if gpu.Status != "releasing" {
			left++
		}
	}
	must("Store Contract IDs, Clean Up When Done", err, left == 0)
	viewCosts(ctx, client)
	wrong := codeOf(ctx, client, &pb.ReserveGPUsRequest{Count: 17})
	must("Error Handling: "+wrong, nil, wrong == "InvalidArgument")
	tooMuch := codeOf(ctx, client, &pb.ReserveGPUsRequest{Count: 16, MinVram: 80, MaxPrice: 0.001})
	must("Error Handling: "+tooMuch, nil, tooMuch == "FailedPrecondition")
	giveBack(ctx, client, partialSuccess(ctx, client))
	for _, req := range append(filters(), appropriate()...) {
		if req.Count == 0 {
			req.Count = 1
		}
		checkFirst(ctx, client, req.Count, req)
	}
	must("Handle Partial Success", handlePartial(ctx, client, appropriate()[1]), true)
	training(ctx, client)
	inference(ctx, client)
	development(ctx, client)
	sameFields("ReserveGPUsResponse", ReserveGPUsResponse{}, pb.ReserveGPUsResponse{})
	sameFields("GPUInstance", GPUInstance{}, pb.GPUInstance{})
}

func sameFields(name string, published, generated any) {
	ours := reflect.TypeOf(generated)
	for _, field := range reflect.VisibleFields(reflect.TypeOf(published)) {
		found, has := ours.FieldByName(field.Name)
		same := has && (found.Type == field.Type || found.Type == reflect.TypeOf([]*pb.GPUInstance{}))
		must("Response Format: "+name+"."+field.Name, nil, same)
	}
}
