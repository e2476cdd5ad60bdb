package status

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// endsBy are the parameters that say which sessions to end.
var endsBy = []string{"id", "network", "domain", "server"}

// endFilter returns which sessions the parameters of POST /connections/end mean. Without
// any nobody is meant: to end all sessions there is a drain.
func endFilter(values url.Values) (f filter, err error) {
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(values)) {
		value := values.Get(name)
		switch {
		case !slices.Contains(endsBy, name):
			errs = append(errs, fmt.Errorf("%q is not a parameter: there are %s", name, strings.Join(endsBy, ", ")))
		case value == "":
			errs = append(errs, fmt.Errorf("%s is empty", name))
		default:
			if _, err := f.set(name, value); err != nil {
				errs = append(errs, err)
			}
		}
	}
	if len(values) == 0 {
		errs = append(errs, fmt.Errorf("which sessions? Write %s=", strings.Join(endsBy, "=, ")))
	}
	return f, errors.Join(errs...)
}

// End answers POST /connections/end: it ends the sessions that the parameters mean. Who
// may do that is decided before.
func (s *Status) End(w http.ResponseWriter, r *http.Request) {
	if err := r.ParseForm(); err != nil { // unless that was done before
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	f, err := endFilter(r.Form)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	ended := s.Gateway.End(f.matches)
	attrs := []slog.Attr{slog.Int("sessions", ended), slog.String("by", r.RemoteAddr)}
	for _, name := range endsBy {
		if r.Form.Has(name) {
			attrs = append(attrs, slog.String(name, r.Form.Get(name)))
		}
	}
	s.Log.LogAttrs(r.Context(), slog.LevelInfo, "sessions ended by an operator", attrs...)
	if WantsPage(r) {
		http.Redirect(w, r, endedLink(r.Form), http.StatusSeeOther)
		return
	}
	status := http.StatusOK
	if ended == 0 {
		status = http.StatusNotFound
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]int{"ended": ended}) // fails only if the client has left
}

// endedLink is where a browser sees what has become of the sessions.
func endedLink(values url.Values) string {
	if values.Has("id") {
		return "/?id=" + url.QueryEscape(values.Get("id"))
	}
	shown := shownQuery{values: values}
	return shown.with("state", "closed")
}
