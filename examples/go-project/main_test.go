package main

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestHello(t *testing.T) {
	answer := httptest.NewRecorder()
	router().ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/hello/gopher", nil))
	if answer.Code != http.StatusOK || answer.Body.String() != "hello, gopher\n" {
		t.Errorf("got %d %q", answer.Code, answer.Body)
	}
}

func TestImports(t *testing.T) {
	var out bytes.Buffer
	command := rootCommand()
	command.SetOut(&out)
	command.SetArgs([]string{"imports", "main.go"})
	if err := command.Execute(); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), `1 "github.com/gin-gonic/gin"`) {
		t.Errorf("gin is not in the second group of:\n%s", out.String())
	}
}
