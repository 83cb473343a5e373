// Every allocator with every camera and every display of the lab: each cell is really tried, frames are moved where it
// works, and the whole is compared with the matrix that is checked in, with the reason for each refusal.
#include "support.hpp"

#include <dmaflow/dmaflow.hpp>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <map>
#include <sstream>

#ifndef DMAFLOW_MATRIX_DIR
#error "where the expected matrices are"
#endif

using namespace dmaflow;
using namespace dmaflow::test;

namespace {

constexpr Size frame_size{1280, 720};
constexpr std::uint64_t frames = 12;

struct Place {
  std::string name;
  std::string path;
};

std::vector<Place> displays() {
  std::vector<Place> found;
  for (const auto& card : kms::list()) {
    if (!card.connectors.empty()) found.push_back({card.driver, card.path});
  }
  return found;
}

/// The lab's vivid cameras: single- and multi-planar in turn, from the third on with contiguous memory.
std::vector<Place> cameras() {
  std::vector<Place> found;
  for (const auto& device : v4l2::list()) {
    if (!device.capture) continue;
    found.push_back(
        {std::string(device.multiplanar ? "multi-planar" : "single-planar") + (found.size() < 2 ? "" : "-contiguous"),
         device.path});
  }
  return found;
}

/// What became of one cell: "works", or who refused with which call and error.
std::string try_cell(const Place& display, const Place& camera, const std::string& allocator) {
  const auto source = must(v4l2::Camera::open(camera.path), camera.path.c_str());
  const auto card = must(kms::Device::open(display.path), display.path.c_str());
  kms::Plane* plane = must(must(card->output())->plane());
  const auto heap = must(heap::Allocator::open("system"));
  const auto udmabuf = must(udmabuf::Allocator::open());
  const auto gpu = must(gbm::Device::open(display.path), display.path.c_str());

  Pipeline pipeline;
  must(pipeline.connect(*source, *plane));
  pipeline.offer(*heap);
  pipeline.offer(*udmabuf);
  pipeline.offer(gpu->allocator());
  const auto plans = pipeline.prepare({.size = frame_size, .formats = {formats::xrgb8888}, .allocator = allocator});
  if (!plans) {
    const auto& candidates = plans.error().candidates;
    const auto cell = std::ranges::find(candidates, allocator, &Candidate::allocator);
    if (cell == candidates.end()) return "untried: " + plans.error().error.message();
    std::string who = "allocator";
    if (cell->refused_by == plane->name()) who = "display";
    if (cell->refused_by == source->name()) who = "camera";
    const Error& why = *cell->refusal;
    return who + " " + std::string(why.operation()) + " " + ::strerrorname_np(why.code());
  }
  if (plans->front().allocator->name() != allocator) return "another allocator was chosen";
  if (auto ran = pipeline.run({.frames = frames}); !ran) return "does not run: " + ran.error().message();
  const StreamStats& stats = pipeline.stats().streams.front();
  const BranchStats& screen = stats.branches.front();
  if (screen.presented == 0 || screen.presented + screen.dropped != frames) return "not every frame is accounted for";
  if (stats.bytes_copied != 0) return "it copied";
  return "works";
}

/// Lines "display camera allocator: outcome  # reason" of the matrix for this kernel, by cell.
std::map<std::string, std::string> expected(const std::string& kernel) {
  std::map<std::string, std::string> cells;
  std::ifstream file(std::string(DMAFLOW_MATRIX_DIR) + "/" + kernel + ".txt");
  EXPECT_TRUE(file) << "no expected matrix for kernel " << kernel;
  for (std::string line; std::getline(file, line);) {
    line.resize(std::min(line.find('#'), line.size()));
    while (!line.empty() && line.back() == ' ') line.pop_back();
    if (line.empty()) continue;
    const auto colon = line.rfind(": ");
    cells[line.substr(0, colon)] = line.substr(colon + 2);
  }
  return cells;
}

TEST(Matrix, EveryAllocatorCameraAndDisplayBehavesAsWrittenDown) {
  if (!in_lab()) GTEST_SKIP() << "the expected matrix is the lab's";
  const LeakCheck leaks;
  const std::string kernel = std::getenv("DMAFLOW_LAB_KERNEL");
  auto wanted = expected(kernel);
  std::ostringstream seen;
  for (const Place& display : displays()) {
    for (const Place& camera : cameras()) {
      for (const char* allocator : {"display", "camera", "heap:system", "udmabuf", "gbm"}) {
        const std::string cell = display.name + " " + camera.name + " " + allocator;
        const std::string outcome = try_cell(display, camera, allocator);
        seen << cell << ": " << outcome << "\n";
        const auto found = wanted.find(cell);
        if (found == wanted.end()) {
          ADD_FAILURE() << "not in the matrix: " << cell << ": " << outcome;
          continue;
        }
        EXPECT_EQ(outcome, found->second) << cell;
        wanted.erase(found);
      }
    }
  }
  for (const auto& [cell, outcome] : wanted)
    ADD_FAILURE() << "in the matrix, but not there: " << cell << ": " << outcome;
  if (HasFailure()) std::printf("The matrix as it is now:\n%s", seen.str().c_str());
}

}  // namespace
