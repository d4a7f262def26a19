// SPDX-License-Identifier: Apache-2.0
#include "cloister/api/conversion_events.h"

#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "gtest/gtest.h"

namespace cloister::api {
namespace {

TEST(ConversionEventsTest, TellsOfWhatHasChangedAndOnlyThen) {
  EventHub hub;
  auto listener = hub.Subscribe([] {});
  ConversionEvents events;
  memory::ConversionStats stats;
  events.Publish(stats, &hub);
  Json event = Json::parse(listener->Take(1 << 16), nullptr, false);
  EXPECT_EQ(event["requests"], 0) << "how it begins";
  events.Publish(stats, &hub);
  EXPECT_EQ(listener->Take(1 << 16), "");

  stats.to_shared[0] = {.requests = 3, .bytes = 8192};
  stats.to_private[0] = {.requests = 1, .bytes = 4096};
  stats.refused = 2;
  stats.shared_bytes = 4096;
  events.Publish(stats, &hub);
  event = Json::parse(listener->Take(1 << 16), nullptr, false);
  EXPECT_EQ(event["event"], "conversions");
  EXPECT_EQ(event["requests"], 4);
  EXPECT_EQ(event["to_shared_bytes"], 8192);
  EXPECT_EQ(event["to_private_bytes"], 4096);
  EXPECT_EQ(event["refused"], 2);
  EXPECT_EQ(event["shared_bytes"], 4096);

  // Sizes alone are no event: they change with the counts.
  stats.double_backed_bytes = 4096;
  events.Publish(stats, &hub);
  EXPECT_EQ(listener->Take(1 << 16), "");

  stats.to_shared[0].requests = 5;
  events.Publish(stats, &hub);
  event = Json::parse(listener->Take(1 << 16), nullptr, false);
  EXPECT_EQ(event["requests"], 2);
  EXPECT_EQ(event["refused"], 0);
  EXPECT_EQ(event["double_backed_bytes"], 4096);
}

}  // namespace
}  // namespace cloister::api
