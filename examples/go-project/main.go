// Go-project is a small service with a large module graph: an HTTP page by gin, a health service by
// grpc, both under one cobra command, logging by zap. It exists to be downloaded: its go.mod is the
// real input on which goanyway is tried.
package main

import (
	"context"
	"errors"
	"fmt"
	"go/parser"
	"go/token"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/spf13/cobra"
	"github.com/spf13/viper"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
	"golang.org/x/tools/go/ast/astutil"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := rootCommand().ExecuteContext(ctx); err != nil {
		os.Exit(1)
	}
}

func rootCommand() *cobra.Command {
	settings := viper.New()
	settings.SetEnvPrefix("goproject")
	settings.AutomaticEnv()
	root := &cobra.Command{Use: "go-project", SilenceUsage: true}
	root.PersistentFlags().String("grpc", "127.0.0.1:0", "address of the health service")
	if err := settings.BindPFlag("grpc", root.PersistentFlags().Lookup("grpc")); err != nil {
		panic(err)
	}
	root.AddCommand(serveCommand(settings), checkCommand(settings), importsCommand())
	return root
}

// serveCommand runs both services until it is told to stop.
func serveCommand(settings *viper.Viper) *cobra.Command {
	command := &cobra.Command{
		Use:   "serve",
		Short: "serve HTTP and the gRPC health service",
		Args:  cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			log, err := zap.NewProduction()
			if err != nil {
				return err
			}
			defer log.Sync()
			return serve(command.Context(), log, settings.GetString("http"), settings.GetString("grpc"))
		},
	}
	command.Flags().String("http", "127.0.0.1:0", "address of the HTTP service")
	if err := settings.BindPFlag("http", command.Flags().Lookup("http")); err != nil {
		panic(err)
	}
	return command
}

func serve(ctx context.Context, log *zap.Logger, httpAddress, grpcAddress string) error {
	web, err := net.Listen("tcp", httpAddress)
	if err != nil {
		return err
	}
	rpc, err := net.Listen("tcp", grpcAddress)
	if err != nil {
		return err
	}
	log.Info("serving", zap.Stringer("http", web.Addr()), zap.Stringer("grpc", rpc.Addr()))

	pages := &http.Server{Handler: router(), ReadHeaderTimeout: 5 * time.Second}
	checks := grpc.NewServer()
	grpc_health_v1.RegisterHealthServer(checks, health.NewServer())

	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		if err := pages.Serve(web); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	group.Go(func() error { return checks.Serve(rpc) })
	group.Go(func() error {
		<-ctx.Done()
		checks.GracefulStop()
		return pages.Shutdown(context.Background())
	})
	return group.Wait()
}

func router() *gin.Engine {
	gin.SetMode(gin.ReleaseMode)
	router := gin.New()
	router.Use(gin.Recovery())
	router.GET("/hello/:name", func(c *gin.Context) { c.String(http.StatusOK, "hello, %s\n", c.Param("name")) })
	router.GET("/metrics", gin.WrapH(promhttp.Handler()))
	return router
}

// checkCommand asks a running health service how it is.
func checkCommand(settings *viper.Viper) *cobra.Command {
	return &cobra.Command{
		Use:   "check",
		Short: "ask the health service",
		Args:  cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			connection, err := grpc.NewClient(settings.GetString("grpc"), grpc.WithTransportCredentials(insecure.NewCredentials()))
			if err != nil {
				return err
			}
			defer connection.Close()
			client := grpc_health_v1.NewHealthClient(connection)
			answer, err := client.Check(command.Context(), &grpc_health_v1.HealthCheckRequest{})
			if err != nil {
				return err
			}
			fmt.Fprintln(command.OutOrStdout(), answer.GetStatus())
			return nil
		},
	}
}

// importsCommand prints what a Go file imports, grouped as gofmt groups it.
func importsCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "imports FILE",
		Short: "print what a Go file imports",
		Args:  cobra.ExactArgs(1),
		RunE: func(command *cobra.Command, arguments []string) error {
			files := token.NewFileSet()
			file, err := parser.ParseFile(files, arguments[0], nil, parser.ImportsOnly)
			if err != nil {
				return err
			}
			for number, group := range astutil.Imports(files, file) {
				for _, spec := range group {
					fmt.Fprintln(command.OutOrStdout(), number, spec.Path.Value)
				}
			}
			return nil
		},
	}
}
