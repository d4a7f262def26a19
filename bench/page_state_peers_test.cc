// SPDX-License-Identifier: Apache-2.0
#include "cloister/bench/page_state_peers.h"

#include <algorithm>
#include <cstdint>
#include <random>
#include <vector>

#include "gtest/gtest.h"

namespace cloister::bench {
namespace {

constexpr uint64_t kPages = 4096;

// A comparison with peers that are wrong would be worth nothing.
template <typename Peer>
void AgreesWithAnArray(Peer peer) {
  std::mt19937 random(11);
  std::vector<uint8_t> model(kPages);
  for (int i = 0; i < 3000; ++i) {
    uint64_t first = random() % kPages;
    uint64_t end = std::min(first + 1 + random() % 100, kPages);
    uint8_t state = random() % 4;
    peer.Set(first, end, state);
    std::fill(model.begin() + first, model.begin() + end, state);
    uint64_t page = random() % kPages;
    ASSERT_EQ(peer.Get(page), model[page]);
  }
  uint64_t next = 5;
  peer.Visit(5, kPages - 5, [&](uint64_t first, uint64_t end, uint8_t state) {
    ASSERT_EQ(first, next);
    ASSERT_LT(first, end);
    for (uint64_t page = first; page < end; ++page) {
      ASSERT_EQ(model[page], state);
    }
    ASSERT_TRUE(first == 5 || model[first - 1] != state);
    next = end;
  });
  EXPECT_EQ(next, kPages - 5);
}

TEST(PageStatePeersTest, Bitmap) { AgreesWithAnArray(BitmapPeer(kPages)); }
TEST(PageStatePeersTest, Btree) { AgreesWithAnArray(BtreePeer()); }

}  // namespace
}  // namespace cloister::bench
