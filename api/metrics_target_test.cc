// SPDX-License-Identifier: Apache-2.0
#include "cloister/api/metrics_target.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>
#include <future>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "cloister/base/status_matchers.h"
#include "cloister/base/unique_fd.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::api {
namespace {

using base::StatusIs;
using ::testing::HasSubstr;

std::vector<Json> LinesOf(const std::string& path) {
  std::vector<Json> lines;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    lines.push_back(Json::parse(line, nullptr, false));
  }
  return lines;
}

TEST(MetricsTargetTest, NothingIsWrittenOrDueBeforeItIsOpen) {
  MetricsTarget target;
  EXPECT_FALSE(target.is_open());
  ApiCounters counters;
  MetricsSnapshot snapshot;
  snapshot.api = &counters;
  EXPECT_THAT(
      target.Write(snapshot),
      StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("/metrics")));
  EXPECT_FALSE(
      target.IsDue(std::chrono::steady_clock::now() + std::chrono::hours(100)));
  EXPECT_THAT(target.Open({{"metrics_path", "/no/such/folder/file"}}),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("metrics_path: ")));
  EXPECT_FALSE(target.is_open());
}

TEST(MetricsTargetTest, LinesHaveWhatTheTargetAsksFor) {
  const std::string path = absl::StrCat(::testing::TempDir(), "/lines");
  MetricsTarget target;
  ASSERT_OK(target.Open({{"metrics_path", path},
                         {"emit_id", true},
                         {"properties", {{"rack", "7"}}}}));
  EXPECT_TRUE(target.is_open());
  EXPECT_THAT(target.Open({{"metrics_path", path}}),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       HasSubstr("set already")));
  ApiCounters counters;
  counters.connections = 3;
  MetricsSnapshot snapshot;
  snapshot.id = "web";
  snapshot.api = &counters;
  ASSERT_OK(target.Write(snapshot));
  counters.connections = 5;
  ASSERT_OK(target.Write(snapshot));
  const std::vector<Json> lines = LinesOf(path);
  ASSERT_EQ(lines.size(), 2u);
  for (const Json& line : lines) {
    EXPECT_EQ(line["id"], "web");
    EXPECT_EQ(line["properties"]["rack"], "7");
    EXPECT_GT(line["utc_timestamp_ms"], 0);
  }
}

TEST(MetricsTargetTest, IsDueOnceAMinute) {
  const std::string path = absl::StrCat(::testing::TempDir(), "/due");
  MetricsTarget target;
  ASSERT_OK(target.Open({{"metrics_path", path}}));
  const auto now = std::chrono::steady_clock::now();
  EXPECT_FALSE(target.IsDue(now));
  EXPECT_FALSE(target.IsDue(now + std::chrono::seconds(59)));
  EXPECT_TRUE(target.IsDue(now + std::chrono::seconds(61)));
  EXPECT_FALSE(target.IsDue(now + std::chrono::seconds(62)));
  EXPECT_TRUE(target.IsDue(now + std::chrono::seconds(121)));
}

// As a file of a server that is away.
class StalledFile {
 public:
  size_t Wait(size_t result) {
    entered_.set_value();
    leave_.get_future().wait();
    return result;
  }
  void AwaitEntered() { entered_.get_future().wait(); }
  void Leave() { leave_.set_value(); }

 private:
  std::promise<void> entered_, leave_;
};

TEST(MetricsTargetTest, NobodyWaitsForAFileBeingOpenedOrWritten) {
  StalledFile opening, writing;
  MetricsTarget target(
      [&](const std::string&) -> absl::StatusOr<MetricsTarget::Append> {
        opening.Wait(0);
        return [&](absl::string_view text) {
          return text.empty() ? 0 : writing.Wait(text.size());
        };
      });
  ApiCounters counters;
  MetricsSnapshot snapshot;
  snapshot.api = &counters;
  // Not this test's thread, which lets the file go on.
  auto ask = [&] {
    auto asked = std::async(std::launch::async, [&] {
      const auto now = std::chrono::steady_clock::now();
      return std::make_pair(target.is_open(),
                            target.IsDue(now + std::chrono::hours(1)));
    });
    return asked;
  };
  constexpr std::chrono::seconds kLong(30);
  auto open = std::async(std::launch::async, [&] {
    return target.Open({{"metrics_path", "m"}});
  });
  opening.AwaitEntered();
  auto during_open = ask();
  EXPECT_EQ(during_open.wait_for(kLong), std::future_status::ready);
  opening.Leave();
  EXPECT_OK(open.get());
  EXPECT_EQ(during_open.get(), std::make_pair(false, false));
  auto write =
      std::async(std::launch::async, [&] { return target.Write(snapshot); });
  writing.AwaitEntered();
  auto during_write = ask();
  EXPECT_EQ(during_write.wait_for(kLong), std::future_status::ready);
  writing.Leave();
  EXPECT_OK(write.get());
  EXPECT_EQ(during_write.get(), std::make_pair(true, true));
}

// Lines longer than PIPE_BUF may be taken in part (pipe(7)).
TEST(MetricsTargetTest, ASlowReaderOfAPipeGetsWholeLinesAndLosesNoCount) {
  const std::string path = absl::StrCat(::testing::TempDir(), "/pipe");
  ::unlink(path.c_str());
  ASSERT_EQ(::mkfifo(path.c_str(), 0600), 0);
  base::UniqueFd reader(
      ::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
  ASSERT_TRUE(reader.valid());
  ASSERT_GT(::fcntl(reader.get(), F_SETPIPE_SZ, 8192), 0);
  MetricsTarget target;
  ASSERT_OK(target.Open({{"metrics_path", path},
                         {"properties", {{"p", std::string(6000, 'p')}}}}));
  ApiCounters counters;
  MetricsSnapshot snapshot;
  snapshot.api = &counters;
  snapshot.machine.vcpus.push_back({.name = "0", .counters = {{"halt", 0}}});
  uint64_t& halts = snapshot.machine.vcpus[0].counters[0].second;
  std::string text;
  auto take = [&](size_t most) {
    std::string part(most, 0);
    const ssize_t got = ::read(reader.get(), part.data(), part.size());
    if (got > 0) text.append(part, 0, got);
  };
  int refused = 0;
  for (int i = 0; i < 50; ++i) {
    ++halts;
    if (!target.Write(snapshot).ok()) ++refused;
    take(3000);
  }
  EXPECT_GT(refused, 0);
  for (take(1 << 16); !target.Write(snapshot).ok();) take(1 << 16);
  for (int i = 0; i < 3; ++i) {
    take(1 << 16);
    (void)target.Write(snapshot).ok();  // what is left of the line before
  }
  uint64_t counted = 0;
  std::vector<std::string> lines = absl::StrSplit(text, '\n');
  lines.pop_back();  // the last may be cut
  for (const std::string& line : lines) {
    const Json json = Json::parse(line, nullptr, false);
    ASSERT_FALSE(json.is_discarded()) << line;
    counted += json["vcpu"]["exit_halt"].get<uint64_t>();
  }
  EXPECT_EQ(counted, 50u);
}

TEST(MetricsTargetTest, AFullDeviceIsSaid) {
  MetricsTarget target;
  absl::Status opened = target.Open({{"metrics_path", "/dev/full"}});
  if (!opened.ok()) {
    // Neither a file nor a pipe: refused when it is opened.
    EXPECT_THAT(opened, StatusIs(absl::StatusCode::kInvalidArgument));
    return;
  }
  ApiCounters counters;
  MetricsSnapshot snapshot;
  snapshot.api = &counters;
  EXPECT_THAT(target.Write(snapshot), StatusIs(absl::StatusCode::kUnavailable));
}

}  // namespace
}  // namespace cloister::api
