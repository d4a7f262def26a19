// SPDX-License-Identifier: Apache-2.0
#include "cloister/kvm/thread_requests.h"

#include <set>

#include "cloister/kvm/requests.h"
#include "gtest/gtest.h"

namespace cloister::kvm {
namespace {

TEST(ThreadRequestsTest, EachIsAKvmRequestAndListedOnce) {
  std::set<unsigned long> seen;
  for (const ThreadRequest& request : ThreadRequests()) {
    EXPECT_EQ((request.request >> 8) & 0xff, RequestType()) << request.name;
    EXPECT_TRUE(seen.insert(request.request).second) << request.name;
    EXPECT_TRUE(request.on_vcpu_threads || request.on_device_threads)
        << request.name;
  }
  EXPECT_EQ(seen.count(Requests::kRun), 1u);
}

TEST(ThreadRequestsTest, DeviceThreadsNeitherRunVcpusNorMapMemory) {
  for (const ThreadRequest& request : ThreadRequests()) {
    EXPECT_NE(request.request, Requests::kSetMemoryRegion) << request.name;
    EXPECT_NE(request.request, Requests::kSetMemoryRegion2) << request.name;
    EXPECT_NE(request.request, Requests::kCreateVcpu) << request.name;
    if (request.request == Requests::kRun) {
      EXPECT_FALSE(request.on_device_threads);
      EXPECT_FALSE(request.on_api_threads);
    }
  }
}

}  // namespace
}  // namespace cloister::kvm
