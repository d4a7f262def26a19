// SPDX-License-Identifier: Apache-2.0
#include "cloister/api/event_hub.h"

#include <atomic>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "gtest/gtest.h"

namespace cloister::api {
namespace {

std::vector<Json> Lines(const std::string& text) {
  std::vector<Json> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) {
    lines.push_back(Json::parse(line));
  }
  return lines;
}

TEST(EventHubTest, EachListenerGetsEveryEventInOrder) {
  EventHub hub;
  EXPECT_FALSE(hub.has_listeners());
  int woken = 0;
  auto first = hub.Subscribe([&] { ++woken; });
  auto second = hub.Subscribe([] {});
  for (int i = 0; i < 3; ++i) hub.Publish("tick", {{"n", i}});
  EXPECT_EQ(woken, 1) << "once for a queue that was empty";
  for (auto* listener : {first.get(), second.get()}) {
    const std::vector<Json> lines = Lines(listener->Take(1 << 20));
    ASSERT_EQ(lines.size(), 3u);
    for (int i = 0; i < 3; ++i) {
      EXPECT_EQ(lines[i]["event"], "tick");
      EXPECT_EQ(lines[i]["n"], i);
      EXPECT_TRUE(lines[i]["time_us"].is_number());
    }
    EXPECT_EQ(listener->Take(1 << 20), "");
  }
  second.reset();
  EXPECT_TRUE(hub.has_listeners());
  first.reset();
  EXPECT_FALSE(hub.has_listeners());
  hub.Publish("nobody", Json::object());
}

TEST(EventHubTest, TakesInPortions) {
  EventHub hub;
  auto listener = hub.Subscribe([] {});
  for (int i = 0; i < 100; ++i) hub.Publish("e", {{"n", i}});
  int n = 0;
  for (std::string part; !(part = listener->Take(200)).empty();) {
    EXPECT_LT(part.size(), 300u);
    for (const Json& line : Lines(part)) EXPECT_EQ(line["n"], n++);
  }
  EXPECT_EQ(n, 100);
}

TEST(EventHubTest, LossIsCountedWhereItHappened) {
  EventHub hub(/*queue_bytes=*/500);
  auto listener = hub.Subscribe([] {});
  int published = 0;
  while (hub.dropped() < 3) hub.Publish("e", {{"n", published++}});
  const int kept = published - 3;
  // Room for one more: the notice comes before it.
  const std::string some = listener->Take(1);
  hub.Publish("e", {{"n", published++}});
  std::vector<Json> lines = Lines(some + listener->Take(1 << 20));
  ASSERT_EQ(lines.size(), static_cast<size_t>(kept) + 2);
  for (int i = 0; i < kept; ++i) EXPECT_EQ(lines[i]["n"], i);
  EXPECT_EQ(lines[kept], Json({{"event", "dropped"}, {"count", 3}}));
  EXPECT_EQ(lines[kept + 1]["n"], published - 1);
  // A loss at the end is told of at the end.
  while (hub.dropped() < 4) hub.Publish("e", {{"n", published++}});
  lines = Lines(listener->Take(1 << 20));
  EXPECT_EQ(lines.back()["event"], "dropped");
  EXPECT_EQ(lines.back()["count"], 1);
}

TEST(EventHubTest, ManyPublishersAndAListenerThatComesAndGoes) {
  EventHub hub;
  std::atomic<bool> stop{false};
  std::vector<std::thread> publishers;
  for (int i = 0; i < 3; ++i) {
    publishers.emplace_back([&] {
      while (!stop) hub.Publish("e", {{"n", 1}});
    });
  }
  for (int i = 0; i < 200; ++i) {
    std::atomic<int> woken{0};
    auto listener = hub.Subscribe([&] { ++woken; });
    while (woken == 0) std::this_thread::yield();
    EXPECT_NE(listener->Take(1000), "");
  }
  stop = true;
  for (std::thread& thread : publishers) thread.join();
}

}  // namespace
}  // namespace cloister::api
