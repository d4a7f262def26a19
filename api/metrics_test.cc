// SPDX-License-Identifier: Apache-2.0
#include "cloister/api/metrics.h"

#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>
#include <string>

#include "cloister/api/metrics_sample.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::api {
namespace {

using ::testing::HasSubstr;

class MetricsTest : public ::testing::Test {
 protected:
  ApiCounters counters_;
  MetricsSnapshot snapshot_ = SampleMetrics(&counters_);
};

TEST_F(MetricsTest, TotalsAsJson) {
  const Json json = MetricsJson(snapshot_);
  EXPECT_EQ(json["uptime_us"], 1500000);
  EXPECT_EQ(json["vcpus"][1]["port_read"], 4);
  EXPECT_EQ(json["devices"]["serial"]["tx_bytes"], 9);
  EXPECT_EQ(json["devices"]["block_root"]["reads"], 6);
  EXPECT_EQ(json["devices"]["block_root"]["in_flight"], 2);
  EXPECT_EQ(json["boot_us"]["first KVM_RUN"], 2000);
  EXPECT_EQ(json["memory"]["to_shared"]["explicit"]["bytes"], 8192);
  EXPECT_EQ(json["api"]["get"]["failed"], 1);
  EXPECT_EQ(json["leased_bytes"], 12288);
  snapshot_.machine.leased_bytes.reset();
  EXPECT_FALSE(MetricsJson(snapshot_).contains("leased_bytes"));
}

TEST_F(MetricsTest, LinesHaveDifferences) {
  Json previous;
  Json line = MetricsLine(snapshot_, 17, &previous);
  EXPECT_EQ(line["utc_timestamp_ms"], 17);
  EXPECT_EQ(line["vcpu"]["exit_port_read"], 7);
  EXPECT_EQ(line["vcpu_1"]["port_read"], 4);
  EXPECT_EQ(line["get_api_requests"]["count"], 5);
  EXPECT_EQ(line["memory"]["private"], 4096);
  snapshot_.machine.vcpus[0].counters[0].second = 13;
  counters_.by_method[0].count = 6;
  line = MetricsLine(snapshot_, 18, &previous);
  EXPECT_EQ(line["vcpu"]["exit_port_read"], 10);
  EXPECT_EQ(line["vcpu_1"]["port_read"], 0);
  EXPECT_EQ(line["get_api_requests"]["count"], 1);
  // Sizes are no counters.
  EXPECT_EQ(line["memory"]["private"], 4096);
  EXPECT_EQ(line["block_root"]["reads"], 0);
  EXPECT_EQ(line["block_root"]["in_flight"], 2);
  EXPECT_EQ(line["leased_bytes"], 12288);
  // A guest that was started anew counts from 0.
  snapshot_.machine.vcpus[0].counters[0].second = 1;
  line = MetricsLine(snapshot_, 19, &previous);
  EXPECT_EQ(line["vcpu_0"]["port_read"], 1);
}

TEST_F(MetricsTest, PrometheusTextKeepsItsRules) {
  const std::string text = PrometheusText(snapshot_);
  constexpr char kSample[] =
      R"re([a-zA-Z_:][a-zA-Z0-9_:]*(\{[a-z_]+="(\\.|[^"\])*"(,[a-z_]+="(\\.|[^"\])*")*\})? [0-9.e+-]+)re";
  std::set<std::string> types, samples;
  std::istringstream lines(text);
  std::map<std::string, double> last_bucket;
  for (std::string line; std::getline(lines, line);) {
    if (line.rfind("# TYPE ", 0) == 0) {
      const std::string name = line.substr(7, line.find(' ', 7) - 7);
      EXPECT_TRUE(types.insert(name).second) << "twice: " << name;
      continue;
    }
    if (line.rfind("# HELP ", 0) == 0) continue;
    ASSERT_THAT(line, ::testing::MatchesRegex(kSample));
    EXPECT_TRUE(samples.insert(line.substr(0, line.rfind(' '))).second) << line;
    std::string name = line.substr(0, line.find_first_of("{ "));
    for (const char* suffix : {"_bucket", "_sum", "_count"}) {
      const size_t at = name.rfind(suffix);
      if (at != std::string::npos && types.count(name.substr(0, at)) > 0) {
        name = name.substr(0, at);
      }
    }
    EXPECT_EQ(types.count(name), 1u) << line;
  }
  EXPECT_THAT(text, HasSubstr("id=\"a\\\"b\\\\c\\n\""));
  EXPECT_THAT(text, HasSubstr("_bucket{le=\"+Inf\"} 3\n"));
  EXPECT_THAT(text, HasSubstr("latency_seconds_count 3\n"));
  EXPECT_THAT(text, HasSubstr("# TYPE cloister_leased_bytes gauge\n"
                              "cloister_leased_bytes 12288\n"));
}

}  // namespace
}  // namespace cloister::api
