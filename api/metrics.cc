// SPDX-License-Identifier: Apache-2.0
#include "cloister/api/metrics.h"

#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "cloister/api/memory_view.h"

namespace cloister::api {
namespace {

constexpr const char* kMethodNames[] = {"get", "put", "patch", "post"};
constexpr const char* kOriginNames[] = {"explicit", "implicit", "host"};

Json CountersJson(const CounterGroup& group) {
  Json json = Json::object();
  for (const auto& [name, value] : group.counters) json[name] = value;
  return json;
}

// Both kinds of values of a group.
Json GroupJson(const CounterGroup& group) {
  Json json = CountersJson(group);
  for (const auto& [name, value] : group.sizes) json[name] = value;
  return json;
}

// Prometheus' text format, one family after the other.
class Exposition {
 public:
  void Family(absl::string_view name, absl::string_view type,
              absl::string_view help) {
    name_ = std::string(name);
    absl::StrAppend(&text_, "# HELP ", name, " ", help, "\n# TYPE ", name, " ",
                    type, "\n");
  }
  using Labels = std::vector<std::pair<const char*, std::string>>;
  template <typename Value>
  void Sample(const Labels& labels, Value value, const char* suffix = "") {
    absl::StrAppend(&text_, name_, suffix);
    const char* separator = "{";
    for (const auto& [label, text] : labels) {
      absl::StrAppend(
          &text_, separator, label, "=\"",
          absl::StrReplaceAll(text,
                              {{"\\", "\\\\"}, {"\"", "\\\""}, {"\n", "\\n"}}),
          "\"");
      separator = ",";
    }
    if (!labels.empty()) text_ += "}";
    absl::StrAppend(&text_, " ", value, "\n");
  }
  std::string Finish() { return std::move(text_); }

 private:
  std::string name_;
  std::string text_;
};

void Flows(const std::array<memory::ConversionStats::Flow, 3>& flows,
           const char* to, bool bytes, Exposition* out) {
  for (size_t i = 0; i < flows.size(); ++i) {
    out->Sample({{"to", to}, {"origin", kOriginNames[i]}},
                bytes ? flows[i].bytes : flows[i].requests);
  }
}

void Latencies(const memory::LatencyHistogram& latency, Exposition* out) {
  out->Family("cloister_conversion_latency_seconds", "histogram",
              "Duration of the guest's conversion requests.");
  uint64_t count = 0;
  double sum = 0;
  for (size_t i = 0; i + 1 < latency.size(); ++i) {
    count += latency[i];
    const double end = static_cast<double>(uint64_t{2} << i) * 1e-9;
    // The middle of the bucket: the exact durations are not kept.
    sum += static_cast<double>(latency[i]) * end * 0.75;
    out->Sample({{"le", absl::StrCat(end)}}, count, "_bucket");
  }
  count += latency.back();
  sum += static_cast<double>(latency.back()) *
         static_cast<double>(uint64_t{1} << (latency.size() - 1)) * 1e-9;
  out->Sample({{"le", "+Inf"}}, count, "_bucket");
  out->Sample({}, sum, "_sum");
  out->Sample({}, count, "_count");
}

void Conversions(const memory::ConversionStats& stats, Exposition* out) {
  out->Family("cloister_conversions_total", "counter",
              "Requests that converted pages.");
  Flows(stats.to_shared, "shared", false, out);
  Flows(stats.to_private, "private", false, out);
  out->Family("cloister_converted_bytes_total", "counter",
              "Bytes of converted pages.");
  Flows(stats.to_shared, "shared", true, out);
  Flows(stats.to_private, "private", true, out);
  const Json json = ConversionsJson(stats);
  out->Family("cloister_conversion_requests_total", "counter",
              "What became of conversion requests.");
  for (const auto& [name, value] : json["counters"].items()) {
    if (name == "queued") continue;
    out->Sample({{"outcome", name}}, value.get<uint64_t>());
  }
  out->Family("cloister_memory_bytes", "gauge",
              "Guest memory by state, and what of it is backed twice.");
  for (const auto& [name, value] : json["bytes"].items()) {
    out->Sample({{"state", name}}, value.get<uint64_t>());
  }
  Latencies(stats.latency, out);
}

void Groups(const std::vector<CounterGroup>& groups, const char* group_label,
            const char* counter_label, Exposition* out) {
  for (const CounterGroup& group : groups) {
    for (const auto& [name, value] : group.counters) {
      out->Sample({{group_label, group.name}, {counter_label, name}}, value);
    }
  }
}

void Api(const Json& api, Exposition* out) {
  out->Family("cloister_api_requests_total", "counter", "Requests served.");
  for (const char* method : kMethodNames) {
    out->Sample({{"method", method}}, api[method]["count"].get<uint64_t>());
  }
  out->Family("cloister_api_requests_failed_total", "counter",
              "Requests answered with an error.");
  for (const char* method : kMethodNames) {
    out->Sample({{"method", method}}, api[method]["failed"].get<uint64_t>());
  }
  for (const char* name : {"bad_requests", "connections", "connections_refused",
                           "timeouts", "events_dropped"}) {
    out->Family(absl::StrCat("cloister_api_", name, "_total"), "counter",
                absl::StrCat("The API's ",
                             absl::StrReplaceAll(name, {{"_", " "}}), "."));
    out->Sample({}, api[name].get<uint64_t>());
  }
}

// `now` minus `before`, member by member, for counters.
Json Difference(const Json& now, const Json& before) {
  if (now.is_object()) {
    Json result = Json::object();
    for (const auto& [name, value] : now.items()) {
      result[name] = Difference(
          value, before.is_object() ? before.value(name, Json()) : Json());
    }
    return result;
  }
  if (!now.is_number_unsigned() || !before.is_number_unsigned()) return now;
  const uint64_t current = now.get<uint64_t>(), last = before.get<uint64_t>();
  // A restarted guest counts from 0.
  return current >= last ? current - last : current;
}

// The counters of a line of the metrics file.
Json LineTotals(const MetricsSnapshot& snapshot) {
  Json totals = Json::object();
  const Json api = ApiJson(*snapshot.api);
  Json& vcpu = totals["vcpu"] = Json::object();
  for (const CounterGroup& group : snapshot.machine.vcpus) {
    for (const auto& [name, value] : group.counters) {
      const std::string key = absl::StrCat("exit_", name);
      vcpu[key] = vcpu.value(key, uint64_t{0}) + value;
    }
    totals[absl::StrCat("vcpu_", group.name)] = CountersJson(group);
  }
  for (const CounterGroup& group : snapshot.machine.devices) {
    totals[group.name] = CountersJson(group);
  }
  for (const char* method : kMethodNames) {
    totals[absl::StrCat(method, "_api_requests")] = api[method];
  }
  if (snapshot.machine.conversions.has_value()) {
    const Json all = ConversionsJson(*snapshot.machine.conversions);
    totals["conversions"] = {{"to_shared", all["to_shared"]},
                             {"to_private", all["to_private"]},
                             {"requests", all["counters"]}};
  }
  return totals;
}

}  // namespace

Json ApiJson(const ApiCounters& counters) {
  Json json;
  for (size_t i = 0; i < counters.by_method.size(); ++i) {
    json[kMethodNames[i]] = {{"count", counters.by_method[i].count.load()},
                             {"failed", counters.by_method[i].failed.load()}};
  }
  json["bad_requests"] = counters.bad_requests.load();
  json["connections"] = counters.connections.load();
  json["connections_refused"] = counters.connections_refused.load();
  json["timeouts"] = counters.timeouts.load();
  json["events_dropped"] = counters.events_dropped.load();
  return json;
}

Json MetricsJson(const MetricsSnapshot& snapshot) {
  Json json = {{"id", snapshot.id},
               {"backend", snapshot.backend},
               {"uptime_us", snapshot.uptime.count()},
               {"vcpus", Json::array()},
               {"devices", Json::object()},
               {"boot_us", Json::object()},
               {"api", ApiJson(*snapshot.api)}};
  for (const CounterGroup& group : snapshot.machine.vcpus) {
    json["vcpus"].push_back(CountersJson(group));
  }
  for (const CounterGroup& group : snapshot.machine.devices) {
    json["devices"][group.name] = GroupJson(group);
  }
  for (const auto& [phase, when] : snapshot.machine.boot) {
    json["boot_us"][phase] = when.count() / 1000;
  }
  if (snapshot.machine.leased_bytes.has_value()) {
    json["leased_bytes"] = *snapshot.machine.leased_bytes;
  }
  if (snapshot.machine.conversions.has_value()) {
    json["memory"] = ConversionsJson(*snapshot.machine.conversions);
  }
  return json;
}

std::string PrometheusText(const MetricsSnapshot& snapshot) {
  Exposition out;
  out.Family("cloister_vm_info", "gauge", "The VM and its backend.");
  out.Sample({{"id", snapshot.id}, {"backend", snapshot.backend}}, 1);
  out.Family("cloister_uptime_seconds", "gauge", "Since the monitor started.");
  out.Sample({}, static_cast<double>(snapshot.uptime.count()) * 1e-6);
  out.Family("cloister_vcpu_exits_total", "counter", "Exits of the vCPUs.");
  Groups(snapshot.machine.vcpus, "vcpu", "kind", &out);
  out.Family("cloister_device_events_total", "counter",
             "What the devices counted.");
  Groups(snapshot.machine.devices, "device", "event", &out);
  out.Family("cloister_device_state", "gauge", "How the devices are now.");
  for (const CounterGroup& group : snapshot.machine.devices) {
    for (const auto& [name, value] : group.sizes) {
      out.Sample({{"device", group.name}, {"size", name}}, value);
    }
  }
  out.Family("cloister_boot_phase_seconds", "gauge",
             "When a phase of the start was reached.");
  for (const auto& [phase, when] : snapshot.machine.boot) {
    out.Sample({{"phase", phase}}, static_cast<double>(when.count()) * 1e-9);
  }
  if (snapshot.machine.leased_bytes.has_value()) {
    out.Family("cloister_leased_bytes", "gauge",
               "Shared memory that devices use at this moment.");
    out.Sample({}, *snapshot.machine.leased_bytes);
  }
  if (snapshot.machine.conversions.has_value()) {
    Conversions(*snapshot.machine.conversions, &out);
  }
  Api(ApiJson(*snapshot.api), &out);
  return out.Finish();
}

Json MetricsLine(const MetricsSnapshot& snapshot, int64_t utc_ms,
                 Json* previous) {
  Json totals = LineTotals(snapshot);
  Json line = Difference(totals, *previous);
  *previous = std::move(totals);
  line["utc_timestamp_ms"] = utc_ms;
  for (const CounterGroup& group : snapshot.machine.devices) {
    for (const auto& [name, value] : group.sizes) {
      line[group.name][name] = value;
    }
  }
  if (snapshot.machine.leased_bytes.has_value()) {
    line["leased_bytes"] = *snapshot.machine.leased_bytes;
  }
  if (snapshot.machine.conversions.has_value()) {
    line["memory"] = ConversionsJson(*snapshot.machine.conversions)["bytes"];
  }
  for (const auto& [phase, when] : snapshot.machine.boot) {
    line["boot_us"][phase] = when.count() / 1000;
  }
  return line;
}

}  // namespace cloister::api
