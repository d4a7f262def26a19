// SPDX-License-Identifier: Apache-2.0
//
// What a VM costs before it does anything: from the start of the process to the
// first answered request, in CPU and wall time, and what is resident beside the
// guest's pages once a VM with one vCPU and 128 MiB runs. Medians of 100.
//
//   start_bench PATH_OF_CLOISTER [RUNS]
//
// Fails above the marks: 4 ms of CPU, 5 MiB. Needs root: the monitor does not
// let others look at its memory, at its counters neither.
#include <dirent.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "cloister/api/client.h"
#include "cloister/base/status_macros.h"
#include "cloister/vmm/micro_kernel.h"

namespace cloister {
namespace {

using Clock = std::chrono::steady_clock;

constexpr double kCpuMark = 4.0;       // milliseconds
constexpr double kResidentMark = 5.0;  // MiB

struct Sample {
  double cpu_ms = 0;
  double wall_ms = 0;
  double idle_mib = 0;     // resident before there is a VM
  double running_mib = 0;  // beside the guest's pages, while it runs
};

// The child, killed when this goes.
class Child {
 public:
  explicit Child(const std::vector<std::string>& argv) {
    std::vector<char*> raw;
    for (const std::string& word : argv) {
      raw.push_back(const_cast<char*>(word.c_str()));
    }
    raw.push_back(nullptr);
    if (::posix_spawn(&pid_, raw[0], nullptr, nullptr, raw.data(), environ)) {
      pid_ = -1;
    }
  }
  ~Child() {
    if (pid_ <= 0) return;
    ::kill(pid_, SIGTERM);
    ::waitpid(pid_, nullptr, 0);
  }
  pid_t pid() const { return pid_; }

 private:
  pid_t pid_ = -1;
};

// Nanoseconds on a CPU, of all threads: schedstat's first number.
absl::StatusOr<double> CpuMs(pid_t pid) {
  const std::string folder = absl::StrCat("/proc/", pid, "/task");
  std::unique_ptr<DIR, int (*)(DIR*)> tasks(::opendir(folder.c_str()),
                                            &::closedir);
  if (tasks == nullptr) return absl::NotFoundError(folder);
  double sum = 0;
  while (const dirent* task = ::readdir(tasks.get())) {
    if (task->d_name[0] == '.') continue;
    std::ifstream file(absl::StrCat(folder, "/", task->d_name, "/schedstat"));
    double nanoseconds = 0;
    if (file >> nanoseconds) sum += nanoseconds;
  }
  return sum / 1e6;
}

// Resident MiB of all mappings that are not the guest's memory, which is in
// memfds.
absl::StatusOr<double> ResidentMib(pid_t pid) {
  std::ifstream file(absl::StrCat("/proc/", pid, "/smaps"));
  if (!file.is_open()) return absl::PermissionDeniedError("smaps: run as root");
  bool guest = false;
  uint64_t sum = 0;
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    std::string first;
    words >> first;
    if (absl::StrContains(first, '-')) {
      guest = absl::StrContains(line, "memfd:") ||
              absl::StrContains(line, "guest_memfd");
    } else if (first == "Rss:" && !guest) {
      uint64_t kib = 0;
      words >> kib;
      sum += kib;
    }
  }
  return static_cast<double>(sum) / 1024;
}

absl::Status Put(api::Client& client, const char* path,
                 const std::string& body) {
  ASSIGN_OR_RETURN(api::ClientResponse response,
                   client.Call("PUT", path, body));
  if (response.status == 204) return absl::OkStatus();
  return absl::InternalError(absl::StrCat(path, ": ", response.body));
}

absl::StatusOr<Sample> Measure(const std::string& cloister,
                               const std::string& folder) {
  const std::string socket = folder + "/s";
  Sample sample;
  const Clock::time_point start = Clock::now();
  Child child({cloister, "serve", "--api-sock", socket});
  std::unique_ptr<api::Client> client;
  while (client == nullptr) {
    auto connected = api::Client::Connect(socket);
    if (connected.ok()) client = *std::move(connected);
    if (Clock::now() - start > std::chrono::seconds(10)) {
      return absl::DeadlineExceededError("the server does not come up");
    }
    // Without a CPU of its own the server would wait for this loop.
    ::usleep(200);
  }
  RETURN_IF_ERROR(client->Get("/machine-config").status());
  sample.wall_ms =
      std::chrono::duration<double, std::milli>(Clock::now() - start).count();
  ASSIGN_OR_RETURN(sample.cpu_ms, CpuMs(child.pid()));
  ASSIGN_OR_RETURN(sample.idle_mib, ResidentMib(child.pid()));
  RETURN_IF_ERROR(
      Put(*client, "/boot-source",
          absl::StrCat("{\"kernel_image_path\":\"", folder, "/kernel\"}")));
  RETURN_IF_ERROR(Put(*client, "/confidential", "{\"backend\":\"off\"}"));
  RETURN_IF_ERROR(
      Put(*client, "/serial", "{\"serial_out_path\":\"/dev/null\"}"));
  RETURN_IF_ERROR(
      Put(*client, "/actions", "{\"action_type\":\"InstanceStart\"}"));
  ASSIGN_OR_RETURN(sample.running_mib, ResidentMib(child.pid()));
  return sample;
}

template <typename Member>
double Median(std::vector<Sample> samples, Member member) {
  std::sort(
      samples.begin(), samples.end(),
      [&](const Sample& a, const Sample& b) { return a.*member < b.*member; });
  return samples[samples.size() / 2].*member;
}

int Run(const std::string& cloister, int runs) {
  char folder[] = "/tmp/start-bench-XXXXXX";
  if (::mkdtemp(folder) == nullptr) return 1;
  const std::string kernel = absl::StrCat(folder, "/kernel");
  absl::Status status = vmm::WriteMicroKernel(vmm::MicroKernel::kPrint, kernel);
  std::vector<Sample> samples;
  for (int i = 0; status.ok() && i < runs; ++i) {
    absl::StatusOr<Sample> sample = Measure(cloister, folder);
    status = sample.status();
    if (sample.ok()) samples.push_back(*sample);
  }
  ::unlink(kernel.c_str());
  ::rmdir(folder);
  if (!status.ok()) {
    std::fprintf(stderr, "start_bench: %s\n", status.ToString().c_str());
    return 1;
  }
  const double cpu = Median(samples, &Sample::cpu_ms);
  const double running = Median(samples, &Sample::running_mib);
  std::printf("medians of %d\n", runs);
  std::printf("to the first answer, CPU   %6.2f ms (mark: %.0f)\n", cpu,
              kCpuMark);
  std::printf("to the first answer, wall  %6.2f ms\n",
              Median(samples, &Sample::wall_ms));
  std::printf("resident before a VM       %6.2f MiB\n",
              Median(samples, &Sample::idle_mib));
  std::printf("resident beside the guest  %6.2f MiB (mark: %.0f)\n", running,
              kResidentMark);
  if (cpu <= kCpuMark && running <= kResidentMark) return 0;
  std::printf("above the mark\n");
  return 1;
}

}  // namespace
}  // namespace cloister

int main(int argc, char** argv) {
  int runs = 100;
  if (argc < 2 || (argc > 2 && !absl::SimpleAtoi(argv[2], &runs)) || runs < 1) {
    std::fprintf(stderr, "usage: start_bench PATH_OF_CLOISTER [RUNS]\n");
    return 2;
  }
  return cloister::Run(argv[1], runs);
}
