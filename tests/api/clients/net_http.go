// Go's net/http, as its callers use it: bodies of known and unknown length, gzip, HEAD, idle connections.
package main

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"os"
	"strings"
)

type result struct {
	Status int             `json:"status"`
	Reused bool            `json:"reused"`
	Body   json.RawMessage `json:"body"`
}

func send(method, url string, body io.Reader, headers map[string]string) result {
	request, err := http.NewRequest(method, url, body)
	check(err)
	for name, value := range headers {
		request.Header.Set(name, value)
	}
	answer := result{}
	trace := &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) { answer.Reused = info.Reused }}
	request = request.WithContext(httptrace.WithClientTrace(request.Context(), trace))
	response, err := http.DefaultClient.Do(request)
	check(err)
	defer response.Body.Close()
	data, err := io.ReadAll(response.Body)
	check(err)
	answer.Status, answer.Body = response.StatusCode, data
	if len(data) == 0 {
		answer.Body = json.RawMessage("null")
	}
	return answer
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}

func main() {
	base, body := os.Args[1], os.Args[2]
	url := base + "/v1/embeddings"
	var packed bytes.Buffer
	writer := gzip.NewWriter(&packed)
	_, err := writer.Write([]byte(body))
	check(err)
	check(writer.Close())
	answers := []result{
		send("POST", url, strings.NewReader(body), nil),
		send("POST", url, io.MultiReader(strings.NewReader(body)), nil), // of unknown length: chunked
		send("POST", url+"/", strings.NewReader(body), nil),
		send("POST", base+"/embeddings", strings.NewReader(body), nil),
		send("POST", url, &packed, map[string]string{"Content-Encoding": "gzip"}),
		send("POST", url, strings.NewReader(body), map[string]string{"Expect": "100-continue"}),
		send("POST", url, strings.NewReader(body), map[string]string{"Connection": "Upgrade", "Upgrade": "h2c"}),
		send("HEAD", base+"/health", nil, nil),
		send("GET", base+"/v1/models/", nil, nil),
	}
	text, err := json.Marshal(answers)
	check(err)
	fmt.Println(string(text))
}
