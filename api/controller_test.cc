// SPDX-License-Identifier: Apache-2.0
#include "cloister/api/controller.h"

#include <unistd.h>

#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "cloister/api/controller_fixture.h"
#include "cloister/base/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::api {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST_F(ControllerTest, AnswersAtOnceWhatPollersAsk) {
  EXPECT_EQ(Get("/"), Json({{"app_name", "Cloister"},
                            {"id", "vm7"},
                            {"state", "Not started"},
                            {"vmm_version", "1.2.3"}}));
  EXPECT_EQ(Get("/machine-config")["vcpu_count"], 1);
  EXPECT_EQ(Get("/version")["firecracker_version"], "1.2.3");
  EXPECT_EQ(Get("/openapi.json")["openapi"], "3.1.0");
}

TEST_F(ControllerTest, LifecycleOfAVm) {
  EXPECT_THAT(Fault("PUT", "/actions", kStart), HasSubstr("/boot-source"));
  StartVm();
  EXPECT_EQ(Get("/")["state"], "Running");
  EXPECT_THAT(Fault("PUT", "/actions", kStart), HasSubstr("already"));
  Done("PATCH", "/vm", "{\"state\":\"Paused\"}");
  EXPECT_EQ(Get("/")["state"], "Paused");
  Done("PATCH", "/vm", "{\"state\":\"Paused\"}");
  Done("PATCH", "/vm", "{\"state\":\"Resumed\"}");
  Done("PATCH", "/vm", "{\"state\":\"Resumed\"}");
  Done("PUT", "/actions", "{\"action_type\":\"SendCtrlAltDel\"}");
  Done("PUT", "/actions", "{\"action_type\":\"SendPowerButton\"}");
  Done("PUT", "/actions", "{\"action_type\":\"InstanceStop\"}");
  EXPECT_THAT(machine_.calls(),
              ElementsAre("start", "pause", "resume", "ctrl-alt-del",
                          "power button", "stop"));
  controller_->OnEnd({{"reason", "stopped"}});
  EXPECT_THAT(Fault("PATCH", "/vm", "{\"state\":\"Paused\"}"),
              HasSubstr("ended"));
  EXPECT_THAT(Fault("PUT", "/actions", "{\"action_type\":\"InstanceStop\"}"),
              HasSubstr("ended"));
}

TEST_F(ControllerTest, StateRulesHoldForEveryEndpoint) {
  for (int started = 0; started < 2; ++started) {
    if (started) StartVm();
    for (const Endpoint& endpoint : Endpoints()) {
      if (endpoint.when == When::kAny || endpoint.group == Group::kAbsent) {
        continue;
      }
      const bool allowed = (endpoint.when == When::kAfterStart) == started;
      if (allowed) continue;
      std::string target(endpoint.path);
      std::string body;
      if (endpoint.body != nullptr) {
        // Whatever the body: what is wrong with it comes first, so one that
        // is right is needed.
        static const std::map<std::string, std::string> kBodies = {
            {"patchVm", "{\"state\":\"Paused\"}"},
            {"patchBalloon", "{\"amount_mib\":1}"},
            {"patchBalloonStatistics", "{\"stats_polling_interval_s\":1}"},
            {"patchDrive", "{\"drive_id\":\"a\"}"},
            {"patchNetworkInterface", "{\"iface_id\":\"a\"}"},
            {"convertMemory",
             "{\"ranges\":[{\"gpa\":0,\"len\":4096,\"to\":\"shared\"}]}"},
            {"putMachineConfiguration",
             "{\"vcpu_count\":1,\"mem_size_mib\":64}"},
            {"putBootSource", kBoot},
            {"putDrive",
             "{\"drive_id\":\"a\",\"path_on_host\":\"p\","
             "\"is_root_device\":false}"},
            {"putNetworkInterface",
             "{\"iface_id\":\"a\",\"host_dev_name\":\"tap0\"}"},
            {"putVsock", "{\"guest_cid\":3,\"uds_path\":\"/s\"}"},
            {"putBalloon", "{\"amount_mib\":1,\"deflate_on_oom\":true}"},
            {"putMetrics", "{\"metrics_path\":\"/nowhere/m\"}"}};
        auto found = kBodies.find(std::string(endpoint.id));
        body = found == kBodies.end() ? "{}" : found->second;
      }
      EXPECT_THAT(
          Fault(std::string(MethodName(endpoint.method)), target, body),
          HasSubstr(started ? "before the VM is started" : "not been started"))
          << target;
    }
  }
  EXPECT_THAT(machine_.calls(), ElementsAre("start"));
}

TEST_F(ControllerTest, AbsentEndpointsSaySo) {
  for (const Endpoint& endpoint : Endpoints()) {
    if (endpoint.group != Group::kAbsent) continue;
    EXPECT_THAT(Fault(std::string(MethodName(endpoint.method)),
                      std::string(endpoint.path), "{\"any\":\"thing\"}"),
                HasSubstr("not supported"));
  }
}

TEST_F(ControllerTest, ConvertsOnlyWhatTheHostOwns) {
  StartVm();
  auto convert = [](uint64_t gpa, const char* to, uint64_t other) {
    return absl::StrCat(
        "{\"ranges\":[{\"gpa\":", gpa, ",\"len\":\"8KiB\",\"to\":\"", to,
        "\"},{\"gpa\":", other, ",\"len\":4096,\"to\":\"shared\"}]}");
  };
  const uint64_t window = FakeMachine::kWindow;
  const Json answer = Json::parse(
      Send("POST", "/memory/convert", convert(window, "shared", window + 65536))
          .body);
  EXPECT_EQ(answer, Json({{"ranges",
                           {{{"gpa", "0x100000000"}, {"len", "0x2000"}},
                            {{"gpa", "0x100010000"}, {"len", "0x1000"}}}},
                          {"to", "shared"},
                          {"bytes", 12288}}));
  EXPECT_EQ(Fault("POST", "/memory/convert",
                  convert(window + 16384, "shared", 2 << 20)),
            "guest owns this page");
  EXPECT_EQ(machine_.states()->Get(memory::GuestAddress(window + 16384)),
            memory::PageState::kPrivate);
  EXPECT_THAT(
      Fault("POST", "/memory/convert", convert(window, "private", window)),
      HasSubstr("the same in all"));
  EXPECT_THAT(Fault("POST", "/memory/convert", convert(1, "shared", window)),
              HasSubstr("gpa"));
  const Json shown =
      Get(absl::StrCat("/memory/attributes?gpa=", window, "&len=16KiB"));
  EXPECT_EQ(shown["ranges"][0]["state"], "shared");
  EXPECT_EQ(shown["ranges"][0]["len"], "0x2000");
  const Json conversions = Get("/memory/conversions");
  EXPECT_EQ(conversions["to_shared"]["host"]["bytes"], 12288);
  EXPECT_EQ(conversions["bytes"]["double_backed"], 8192) << "did not look";
}

TEST_F(ControllerTest, MapComesAsJsonAndAsPicture) {
  StartVm();
  EXPECT_EQ(Get("/memory/map?cells=8")["bytes"]["shared"], 1 << 20);
  HttpResponse svg = Send("GET", "/memory/map.svg");
  EXPECT_EQ(svg.status, 200);
  EXPECT_EQ(svg.content_type, "image/svg+xml");
  EXPECT_THAT(svg.body, HasSubstr("exchange window"));
}

TEST_F(ControllerTest, UpdatesDevices) {
  StartVm();
  Done("PATCH", "/drives/a", "{\"drive_id\":\"a\",\"path_on_host\":\"/n\"}");
  Done("PATCH", "/network-interfaces/e", "{\"iface_id\":\"e\"}");
  Done("PATCH", "/balloon", "{\"amount_mib\":4}");
  Done("PATCH", "/balloon/statistics", "{\"stats_polling_interval_s\":4}");
  EXPECT_THAT(machine_.calls(),
              ElementsAre("start", "update drive a", "update network e",
                          "update balloon", "update statistics"));
  EXPECT_THAT(Fault("PATCH", "/drives/a", "{\"drive_id\":\"b\"}"),
              HasSubstr("differs"));
  EXPECT_THAT(Fault("PATCH", "/drives/none", "{\"drive_id\":\"none\"}"),
              HasSubstr("no drive"));
  EXPECT_EQ(Get("/balloon/statistics")["target_mib"], 1);
}

TEST_F(ControllerTest, TheConfigurationShowsChangesThatSucceeded) {
  Done("PUT", "/drives/a",
       "{\"drive_id\":\"a\",\"path_on_host\":\"/d\",\"is_root_device\":true}");
  Done("PUT", "/balloon", "{\"amount_mib\":1,\"deflate_on_oom\":true}");
  StartVm();
  Done("PATCH", "/drives/a", "{\"drive_id\":\"a\",\"path_on_host\":\"/n\"}");
  Done("PATCH", "/balloon", "{\"amount_mib\":4}");
  EXPECT_EQ(Get("/vm/config")["drives"][0]["path_on_host"], "/n");
  EXPECT_EQ(Get("/balloon")["amount_mib"], 4);
  machine_.hook = [](absl::string_view) {
    return absl::NotFoundError("no such file");
  };
  EXPECT_EQ(Fault("PATCH", "/drives/a",
                  "{\"drive_id\":\"a\",\"path_on_host\":\"/m\"}"),
            "no such file");
  EXPECT_EQ(Fault("PATCH", "/balloon", "{\"amount_mib\":5}"), "no such file");
  EXPECT_EQ(Get("/vm/config")["drives"][0]["path_on_host"], "/n");
  EXPECT_EQ(Get("/balloon")["amount_mib"], 4);
}

TEST_F(ControllerTest, ThePolicyChangesBeforeTheStartAndAfterIt) {
  Done("PATCH", "/memory/policy",
       "{\"implicit\":\"allow\",\"exchange_windows\":"
       "[{\"gpa\":\"0x100000000\",\"len\":\"64KiB\"}]}");
  Json policy = Get("/memory/policy");
  EXPECT_EQ(policy["implicit"], "allow");
  EXPECT_EQ(policy["burst"], 64);
  EXPECT_EQ(policy["exchange_windows"][0],
            Json({{"gpa", "0x100000000"}, {"len", "0x10000"}}));
  // One place for what can be said in two.
  EXPECT_EQ(Get("/confidential")["exchange_windows"],
            policy["exchange_windows"]);
  EXPECT_FALSE(Get("/vm/config")["memory-policy"].contains("exchange_windows"));
  EXPECT_THAT(Fault("PATCH", "/memory/policy", "{\"shared_limit\":4097}"),
              HasSubstr("shared_limit"));
  EXPECT_THAT(Fault("PATCH", "/memory/policy",
                    "{\"exchange_windows\":[{\"gpa\":1,\"len\":4096}]}"),
              HasSubstr("exchange_windows"));
  EXPECT_EQ(Get("/memory/policy"), policy);
  StartVm();

  Done("PATCH", "/memory/policy", "{\"implicit\":\"deny\",\"per_second\":5}");
  policy = Get("/memory/policy");
  EXPECT_EQ(policy["implicit"], "deny");
  EXPECT_EQ(policy["per_second"], 5);
  EXPECT_EQ(policy["exchange_windows"].size(), 1u);
  EXPECT_EQ(Get("/vm/config")["memory-policy"]["per_second"], 5);
  EXPECT_THAT(Fault("PATCH", "/memory/policy", "{}"), HasSubstr("nothing"));
  EXPECT_THAT(Fault("PATCH", "/memory/policy", "{\"burst\":0}"),
              HasSubstr("burst"));
  EXPECT_THAT(Fault("PATCH", "/memory/policy", "{\"shared_limit\":4097}"),
              HasSubstr("shared_limit"));
  EXPECT_THAT(Fault("PATCH", "/memory/policy", "{\"exchange_windows\":[]}"),
              HasSubstr("only allowed before the VM is started"));
  // What the machine refuses is not noted.
  machine_.hook = [](absl::string_view call) {
    return absl::StartsWith(call, "policy")
               ? absl::FailedPreconditionError("no private memory")
               : absl::OkStatus();
  };
  EXPECT_THAT(Fault("PATCH", "/memory/policy", "{\"burst\":7}"),
              HasSubstr("no private memory"));
  EXPECT_EQ(Get("/memory/policy"), policy);
  EXPECT_THAT(machine_.calls(),
              ElementsAre("start", "policy deny 5", "policy deny 5"));
  controller_->OnEnd(Json::object());
  EXPECT_THAT(Fault("PATCH", "/memory/policy", "{\"burst\":7}"),
              HasSubstr("ended"));
}

TEST_F(ControllerTest, AddressesAndSizesAreShownInHexadecimal) {
  Done("PUT", "/confidential",
       "{\"exchange_windows\":[{\"gpa\":4294967296,\"len\":\"1MiB\"}],"
       "\"policy\":{\"shared_limit\":134217728}}");
  const Json window = {{"gpa", "0x100000000"}, {"len", "0x100000"}};
  for (int started = 0; started < 2; ++started) {
    if (started == 1) StartVm();
    const Json shown = Get("/confidential");
    EXPECT_EQ(shown["exchange_windows"][0], window);
    EXPECT_EQ(shown["policy"]["shared_limit"], "0x8000000");
    const Json config = Get("/vm/config");
    EXPECT_EQ(config["confidential"]["exchange_windows"][0], window);
    EXPECT_EQ(config["memory-policy"]["shared_limit"], "0x8000000");
    EXPECT_EQ(Get("/memory/policy")["shared_limit"], "0x8000000");
  }
  const Json segments = Get("/memory/map?cells=128")["segments"];
  EXPECT_EQ(segments[0]["cell_len"], "0x100000");
  auto listener = events_.Subscribe([] {});
  Send("POST", "/memory/convert",
       "{\"ranges\":[{\"gpa\":4294967296,\"len\":4096,\"to\":\"shared\"}]}");
  const Json event = Json::parse(listener->Take(1 << 20), nullptr, false);
  EXPECT_EQ(event["event"], "host_conversion");
  ASSERT_EQ(event["ranges"].size(), 1u);
  EXPECT_EQ(event["ranges"][0],
            Json({{"gpa", "0x100000000"}, {"len", "0x1000"}}));
}

TEST_F(ControllerTest, WhatIsShownCanBePutAgain) {
  Done("PUT", "/confidential",
       "{\"backend\":\"off\",\"policy\":{\"implicit\":\"deny\",\"burst\":9,"
       "\"exchange_windows\":[{\"gpa\":\"0x100000000\",\"len\":4096}]}}");
  const Json shown = Get("/confidential");
  EXPECT_EQ(shown["policy"]["implicit"], "deny");
  EXPECT_EQ(shown["policy"]["burst"], 9);
  EXPECT_EQ(shown["exchange_windows"].size(), 1u);
  EXPECT_EQ(Get("/memory/policy")["implicit"], "deny");
  const Json config = Get("/vm/config");
  Done("PUT", "/confidential", shown.dump());
  EXPECT_EQ(Get("/confidential"), shown);
  Done("PUT", "/boot-source", kBoot);
  ASSERT_OK(controller_->LoadConfig(Get("/vm/config").dump()));
  EXPECT_EQ(Get("/vm/config")["confidential"], config["confidential"]);
  EXPECT_EQ(Get("/vm/config")["memory-policy"], config["memory-policy"]);
}

TEST_F(ControllerTest, APolicyThatIsRefusedChangesNothing) {
  const Json before = Get("/confidential");
  EXPECT_THAT(Fault("PUT", "/confidential",
                    "{\"backend\":\"off\",\"policy\":{\"shared_limit\":5}}"),
              HasSubstr("policy: shared_limit"));
  EXPECT_THAT(Fault("PUT", "/confidential", "{\"policy\":{\"burst\":0}}"),
              HasSubstr("policy: burst"));
  EXPECT_THAT(Fault("PUT", "/confidential",
                    "{\"exchange_windows\":[],\"policy\":{\"burst\":3,"
                    "\"exchange_windows\":[]}}"),
              HasSubstr("leave one of them out"));
  // The policy is right, what it comes with is not.
  EXPECT_THAT(Fault("PUT", "/confidential",
                    "{\"policy\":{\"burst\":3,\"exchange_windows\":"
                    "[{\"gpa\":1,\"len\":4096}]}}"),
              HasSubstr("exchange_windows"));
  EXPECT_EQ(Get("/confidential"), before);
}

TEST_F(ControllerTest, LoggerTakesEffectOrIsNotNoted) {
  Done("PUT", "/logger", "{\"log_path\":\"/l\",\"level\":\"warning\"}");
  EXPECT_THAT(logger_, HasSubstr("\"Warning\""));
  EXPECT_EQ(Get("/vm/config")["logger"]["log_path"], "/l");
  log_status_ = absl::InvalidArgumentError("log_path: no");
  EXPECT_EQ(Fault("PUT", "/logger", "{\"log_path\":\"/m\"}"), "log_path: no");
  EXPECT_EQ(Get("/vm/config")["logger"]["log_path"], "/l");
}

TEST_F(ControllerTest, MetricsAreLinesWithDifferences) {
  const std::string path = ::testing::TempDir() + "/metrics.json";
  ::unlink(path.c_str());
  EXPECT_THAT(Fault("PUT", "/actions", "{\"action_type\":\"FlushMetrics\"}"),
              HasSubstr("PUT /metrics"));
  const std::string body =
      absl::StrCat("{\"metrics_path\":\"", path,
                   "\",\"emit_id\":true,\"properties\":{\"a\":\"b\"}}");
  Done("PUT", "/metrics", body);
  EXPECT_THAT(Fault("PUT", "/metrics", body), HasSubstr("already"));
  StartVm();
  for (int i = 0; i < 2; ++i) {
    Done("PUT", "/actions", "{\"action_type\":\"FlushMetrics\"}");
  }
  std::ifstream file(path);
  std::vector<Json> lines;
  for (std::string line; std::getline(file, line);) {
    lines.push_back(Json::parse(line));
  }
  ASSERT_EQ(lines.size(), 2u);
  EXPECT_EQ(lines[0]["id"], "vm7");
  EXPECT_EQ(lines[0]["properties"]["a"], "b");
  EXPECT_EQ(lines[0]["vcpu"]["exit_port_read"], 3);
  EXPECT_EQ(lines[1]["vcpu"]["exit_port_read"], 0);
  // The request that writes the line is counted, too.
  EXPECT_EQ(lines[1]["put_api_requests"]["count"], 1);
  EXPECT_GT(lines[0]["utc_timestamp_ms"].get<int64_t>(), 1600000000000);
}

TEST_F(ControllerTest, MetricsNeedAPlace) {
  EXPECT_THAT(
      Fault("PUT", "/metrics", "{\"metrics_path\":\"/nowhere/metrics\"}"),
      HasSubstr("metrics_path: open /nowhere/metrics"));
}

TEST_F(ControllerTest, EventsTellOfTheLifecycleAndOfConversions) {
  int woken = 0;
  auto listener = events_.Subscribe([&] { ++woken; });
  StartVm();
  controller_->Tick();
  const uint64_t window = FakeMachine::kWindow;
  Send("POST", "/memory/convert",
       absl::StrCat("{\"ranges\":[{\"gpa\":", window,
                    ",\"len\":4096,\"to\":\"shared\"}]}"));
  controller_->Tick();
  controller_->Tick();
  controller_->OnEnd({{"reason", "power off"}});
  std::istringstream text(listener->Take(1 << 20));
  std::vector<std::string> seen;
  for (std::string line; std::getline(text, line);) {
    const Json json = Json::parse(line);
    seen.push_back(json["event"].get<std::string>() + " " +
                   json.value("state", json.contains("to_shared_bytes")
                                           ? json["to_shared_bytes"].dump()
                                           : ""));
  }
  EXPECT_THAT(seen, ElementsAre("lifecycle starting", "lifecycle running",
                                "conversions 0", "host_conversion ",
                                "conversions 4096", "lifecycle ended"));
  EXPECT_GE(woken, 1);
}

TEST_F(ControllerTest, CapabilitiesAreAskedForOnce) {
  EXPECT_TRUE(Get("/capabilities").contains("kvm"));
  Get("/capabilities");
  EXPECT_EQ(capability_calls_, 1);
}

TEST_F(ControllerTest, MeasurementNeedsAKernel) {
  EXPECT_THAT(Fault("GET", "/confidential/measurement"), HasSubstr("boot"));
  Done("PUT", "/boot-source", kBoot);
  EXPECT_EQ(Get("/confidential/measurement")["digest"], "00");
}

TEST_F(ControllerTest, ConfidentialShowsTheBackendInUse) {
  EXPECT_EQ(Get("/confidential")["backend"], "auto");
  StartVm();
  EXPECT_EQ(Get("/confidential")["backend"], "emulated");
  EXPECT_EQ(Get("/vm/config")["confidential"]["backend"], "auto");
}

TEST_F(ControllerTest, LoadsAConfigAndStartsIt) {
  EXPECT_FALSE(controller_->Start().ok());
  EXPECT_FALSE(controller_->LoadConfig("{\"bogus\":1}").ok());
  ASSERT_OK(controller_->LoadConfig(
      absl::StrCat("{\"boot-source\":", kBoot, ",\"logger\":{}}")));
  EXPECT_NE(logger_, "");
  ASSERT_OK(controller_->Start());
  EXPECT_EQ(Get("/")["state"], "Running");
}

TEST_F(ControllerTest, PrometheusTextIsWellFormed) {
  StartVm();
  HttpResponse response = Send("GET", "/metrics/prometheus");
  EXPECT_THAT(response.content_type, HasSubstr("version=0.0.4"));
  EXPECT_THAT(response.body,
              HasSubstr("cloister_vcpu_exits_total{vcpu=\"0\",kind=\"port_"
                        "read\"} 3\n"));
  EXPECT_THAT(response.body,
              HasSubstr("cloister_conversion_latency_seconds_bucket{le="
                        "\"+Inf\"} 4\n"));
}

TEST_F(ControllerTest, CountsRequestsAndFailures) {
  Get("/");
  Fault("PUT", "/boot-source", "{");
  Fault("PUT", "/nowhere", "{}");
  Fault("PATCH", "/machine-config", "{}");
  const Json api = Get("/metrics")["api"];
  EXPECT_EQ(api["get"]["count"], 2);
  EXPECT_EQ(api["patch"]["failed"], 1);
  EXPECT_EQ(api["bad_requests"], 2);
}

}  // namespace
}  // namespace cloister::api
