// The models that Go's own encoding/json and net/http find in requests.
//
// Each line of the standard input is a request: {"body", "query", "fields"}, with bytes in base64. Each line of the
// output is the list of the models found in it.
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
)

type sent struct {
	Body   []byte
	Query  []byte
	Fields [][2][]byte
}

type named struct {
	Model string `json:"model"`
}

func (one sent) request() *http.Request {
	var head bytes.Buffer
	fmt.Fprintf(&head, "POST /v1/completions%s HTTP/1.1\r\nHost: a\r\n", one.Query)
	for _, field := range one.Fields {
		fmt.Fprintf(&head, "%s: %s\r\n", field[0], field[1])
	}
	fmt.Fprintf(&head, "Content-Length: %d\r\n\r\n%s", len(one.Body), one.Body)
	request, err := http.ReadRequest(bufio.NewReader(&head))
	if err != nil {
		return nil
	}
	return request
}

func (one sent) models() map[string]bool {
	found := map[string]bool{}
	var whole, first named
	if json.Unmarshal(one.Body, &whole) == nil {
		found[whole.Model] = true
	}
	json.NewDecoder(bytes.NewReader(one.Body)).Decode(&first)
	found[first.Model] = true
	if request := one.request(); request != nil {
		found[request.FormValue("model")] = true
		for _, value := range request.Form["model"] {
			found[value] = true
		}
	}
	if request := one.request(); request != nil {
		found[request.PostFormValue("model")] = true
	}
	delete(found, "")
	return found
}

func main() {
	lines, out := json.NewDecoder(bufio.NewReader(os.Stdin)), json.NewEncoder(os.Stdout)
	for {
		var one sent
		if lines.Decode(&one) != nil {
			return
		}
		models := []string{}
		for model := range one.models() {
			models = append(models, model)
		}
		out.Encode(models)
	}
}
