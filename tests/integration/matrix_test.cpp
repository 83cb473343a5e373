// Every allocator with every camera and every display of the lab: each combination is really tried, and frames are
// moved if it works. Which of them work depends on the drivers and is observed. Asserted is that each either works
// completely or is refused with the device, the call and the reason, and that the probe reports the same result.
#include "support.hpp"

#include <dmaflow/dmaflow.hpp>

#include <nlohmann/json.hpp>

#include <algorithm>
#include <array>
#include <cstdio>
#include <map>

#ifndef DMAFLOW_PROBE
#error "where the probe is"
#endif

using namespace dmaflow;
using namespace dmaflow::test;
using nlohmann::json;

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

/// The lab's vivid cameras: single- and multi-planar alternately, from the third on with contiguous memory.
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

/// The result of one combination: "works" (frames went through, each was counted, none copied), or which device refused
/// it, with the call and the errno. Anything else fails the test.
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
    const auto& candidates = pipeline.refusal()->candidates;
    const auto cell = std::ranges::find(candidates, allocator, &Candidate::allocator);
    if (cell == candidates.end() || !cell->refusal) {
      ADD_FAILURE() << "refused untried: " << plans.error().message();
      return "untried";
    }
    EXPECT_FALSE(cell->refusal->operation().empty());
    EXPECT_NE(cell->refusal->code(), 0);
    EXPECT_FALSE(cell->refusal->message().empty());
    std::string who = "allocator";
    if (cell->refused_by == plane->name()) who = "display";
    if (cell->refused_by == source->name()) who = "camera";
    return who + " " + outcome(*cell->refusal);
  }
  EXPECT_EQ(plans->front().allocator->name(), allocator);
  if (auto ran = pipeline.run({.frames = frames}); !ran) {
    ADD_FAILURE() << "it was planned and does not run: " << ran.error().message();
    return "does not run";
  }
  const StreamStats& stats = pipeline.stats().streams.front();
  const BranchStats& screen = stats.branches.front();
  EXPECT_GT(screen.presented, 0U);
  EXPECT_EQ(screen.presented + screen.dropped.total(), frames) << "every frame is accounted for";
  EXPECT_EQ(stats.bytes_copied, 0U);
  return "works";
}

struct Cell {
  Place display;
  Place camera;
  std::string allocator;
  std::string outcome;
  [[nodiscard]] std::string name() const { return display.name + " " + camera.name + " " + allocator; }
};

/// Computed once for all tests.
const std::vector<Cell>& matrix() {
  static const std::vector<Cell> all = [] {
    const LeakCheck leaks;
    std::vector<Cell> cells;
    for (const Place& display : displays()) {
      for (const Place& camera : cameras()) {
        for (const char* allocator : {"display", "camera", "heap:system", "udmabuf", "gbm"}) {
          Cell cell{display, camera, allocator, {}};
          const testing::ScopedTrace trace(__FILE__, __LINE__, cell.name());
          cell.outcome = try_cell(display, camera, allocator);
          cells.push_back(std::move(cell));
        }
      }
    }
    return cells;
  }();
  return all;
}

TEST(Matrix, EveryAllocatorCameraAndDisplayWorksWholeOrIsRefusedWithWhoAndWhy) {
  if (!in_lab()) GTEST_SKIP() << "needs displays that nobody else uses";
  ASSERT_GE(matrix().size(), 30U);
  for (const Cell& cell : matrix()) observe("matrix, " + cell.name(), cell.outcome, "README.md");
}

// --- The probe ------------------------------------------------------------------------------------------------------

/// The output of the probe, for 1280x720 XR24 as above; it briefly shows the displays' own memory.
json probed() {
  std::string output;
  std::FILE* const pipe = ::popen(DMAFLOW_PROBE " --json --size 1280x720 --show", "re");
  if (pipe == nullptr) return {};
  std::array<char, 4096> chunk{};
  while (const std::size_t size = std::fread(chunk.data(), 1, chunk.size(), pipe)) output.append(chunk.data(), size);
  EXPECT_EQ(::pclose(pipe), 0);
  return json::parse(output, nullptr, false);
}

const json& probe_cell(const json& all, const std::string& allocator, const std::string& user) {
  static const json none = {{"result", "missing"}};
  for (const json& one : all["matrix"]["cells"]) {
    if (one["allocator"] == allocator && one["user"] == user) return one;
  }
  return none;
}

/// The results of the probe's two cells for one of our cells, in the format of try_cell().
std::string combined(const json& all, const Cell& cell) {
  const std::string camera = "camera:" + cell.camera.path;
  const std::string display = "display:" + cell.display.path;
  std::string allocator = cell.allocator;
  if (allocator == "camera") allocator = camera;
  if (allocator == "display") allocator = display;
  if (allocator == "gbm") allocator = "gbm:" + cell.display.path;
  for (const auto& [who, user] : {std::pair{"camera", camera}, std::pair{"display", display}}) {
    const json& one = probe_cell(all, allocator, user);
    if (one["result"] == "missing") return "missing: " + allocator + " for " + user;
    if (one["result"] == "yes") continue;
    const json& why = one["reason"];
    return std::string(who) + " " + why["operation"].get<std::string>() + " " + why["code"].get<std::string>();
  }
  const json& shown = probe_cell(all, allocator, display);
  const bool moves = shown.contains("note") && shown["note"].get<std::string>().starts_with("the driver moves");
  return moves ? "allocator negotiate EOPNOTSUPP" : "works";
}

TEST(Matrix, TheProbeSaysOfEachWhatAPipelineFinds) {
  if (!in_lab()) GTEST_SKIP() << "needs displays that nobody else uses";
  const json all = probed();
  ASSERT_TRUE(all.contains("matrix"));
  for (const Cell& cell : matrix()) {
    const std::string said = combined(all, cell);
    // A camera that needs contiguous memory accepts scattered memory that happens to be contiguous.
    const auto scattered = [](const std::string& outcome) { return outcome == "camera VIDIOC_QBUF EFAULT"; };
    if (scattered(said) != scattered(cell.outcome)) continue;
    EXPECT_EQ(said, cell.outcome) << cell.name();
  }
}

}  // namespace
