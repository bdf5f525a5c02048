package resource

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
)

// A Discovery describes a route to services that list resources: the extension
// bazaar.
type Discovery struct {
	Query map[string]string // parameters of the URL, by an example each
	// BodyType is what a request's body is: json, form-data or text. Body is an
	// example of it, as JSON.
	BodyType string
	Body     json.RawMessage
	// OutputType is what an answer is, such as json or text, and Output an
	// example of it, as JSON.
	OutputType string
	Output     json.RawMessage
}

const bazaarName = "bazaar"

// extensions are a route's part of PaymentRequired.Extensions.
type extensions struct {
	fixed     map[string]json.RawMessage
	discovery *Discovery
}

// newExtensions describes what a route takes and is.
func newExtensions(r Route) (extensions, error) {
	e := extensions{discovery: r.Discovery}
	id, err := marshalExtension(object{"required": r.NeedID}, object{
		"type": "object",
		"properties": object{
			"required": object{"type": "boolean"},
			"id":       object{"type": "string", "minLength": 16, "maxLength": 128},
		},
		"required": []string{"required"},
	})
	if err != nil {
		return e, err
	}
	e.fixed = map[string]json.RawMessage{identifierName: id}
	d := r.Discovery
	if d == nil {
		return e, nil
	}
	for name, text := range map[string]json.RawMessage{"Body": d.Body, "Output": d.Output} {
		if text != nil && !json.Valid(text) {
			return e, fmt.Errorf("resource: Discovery.%s is not JSON", name)
		}
	}
	if d.BodyType != "" && !slices.Contains([]string{"json", "form-data", "text"}, d.BodyType) {
		return e, fmt.Errorf("resource: Discovery.BodyType: %q, want json, form-data or text", d.BodyType)
	}
	if (d.BodyType == "") != (d.Body == nil) || (d.OutputType == "") != (d.Output == nil) {
		return e, fmt.Errorf("resource: Discovery: a type needs an example, and the other way round")
	}
	return e, nil
}

// methods are those that the standard describes; bodyMethods have a body.
var (
	methods     = []string{http.MethodGet, http.MethodHead, http.MethodDelete, http.MethodPost, http.MethodPut, http.MethodPatch}
	bodyMethods = methods[3:]
)

// of are the extensions of a request of some method.
func (e extensions) of(method string) map[string]json.RawMessage {
	if e.discovery == nil || !slices.Contains(methods, method) {
		return e.fixed
	}
	out := maps.Clone(e.fixed)
	if b, err := e.discovery.bazaar(method); err == nil { // it was tried when the route was made
		out[bazaarName] = b
	}
	return out
}

// object is a JSON object.
type object map[string]any

// bazaar is the description of a method, with the schema that it fits.
func (d Discovery) bazaar(method string) (json.RawMessage, error) {
	input := object{"type": "http", "method": method}
	properties := object{
		"type":   object{"type": "string", "const": "http"},
		"method": object{"type": "string", "enum": []string{method}},
	}
	needed := []string{"type", "method"}
	if len(d.Query) > 0 {
		input["queryParams"] = d.Query
		properties["queryParams"] = object{"type": "object", "additionalProperties": object{"type": "string"}}
	}
	if d.BodyType != "" && slices.Contains(bodyMethods, method) {
		input["bodyType"], input["body"] = d.BodyType, d.Body
		properties["bodyType"], properties["body"] = object{"type": "string", "enum": []string{d.BodyType}}, object{}
		needed = append(needed, "bodyType", "body")
	}
	info := object{"input": input}
	top := object{"input": object{"type": "object", "properties": properties, "required": needed, "additionalProperties": false}}
	if d.OutputType != "" {
		info["output"] = object{"type": d.OutputType, "example": d.Output}
		top["output"] = object{"type": "object", "properties": object{"type": object{"type": "string"}, "example": object{}}, "required": []string{"type"}}
	}
	return marshalExtension(info, object{"type": "object", "properties": top, "required": []string{"input"}})
}

// marshalExtension writes an extension as the standard wants it.
func marshalExtension(info, schema object) (json.RawMessage, error) {
	schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	return json.Marshal(object{"info": info, "schema": schema})
}
