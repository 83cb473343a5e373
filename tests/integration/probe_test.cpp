// The probe from outside: what it lists and tries is compared with the lab's devices, and it must leave the machine
// unchanged. matrix_test.cpp compares its cells with the results of a pipeline.
#include "support.hpp"

#include <dmaflow/dmaflow.hpp>
#include <dmaflow/gbm.hpp>
#include <dmaflow/vulkan.hpp>

#include <nlohmann/json.hpp>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <map>
#include <set>
#include <sstream>

#include <signal.h>
#include <sys/wait.h>

#ifndef DMAFLOW_PROBE
#error "where the program is"
#endif

using namespace dmaflow;
using namespace dmaflow::test;
using nlohmann::json;

namespace {

struct Ended {
  std::string output;
  int status = -1;
};

/// Runs a shell command and returns its stdout and exit status.
Ended run(const std::string& command) {
  Ended ended;
  std::FILE* const pipe = ::popen(command.c_str(), "re");
  if (pipe == nullptr) return ended;
  std::array<char, 4096> chunk{};
  while (const std::size_t size = std::fread(chunk.data(), 1, chunk.size(), pipe))
    ended.output.append(chunk.data(), size);
  const int status = ::pclose(pipe);
  ended.status = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  return ended;
}

json probe(const std::string& options) {
  const Ended ended = run(DMAFLOW_PROBE " --json " + options);
  EXPECT_EQ(ended.status, 0) << options;
  json document = json::parse(ended.output, nullptr, false);
  EXPECT_FALSE(document.is_discarded()) << "not JSON: " << ended.output.substr(0, 500);
  return document;
}

/// For 1280x720 XR24; it briefly shows the displays' own memory. Computed once for all tests.
const json& whole() {
  static const json document = probe("--size 1280x720 --show");
  return document;
}

std::set<std::string> all_of(const json& list, const char* key) {
  std::set<std::string> found;
  for (const json& one : list) found.insert(one[key]);
  return found;
}

TEST(Probe, ListsEveryDeviceOfTheLab) {
  if (!in_lab()) GTEST_SKIP() << "the devices are the lab's";
  std::set<std::string> cameras, outputs, cards, heaps;
  for (const auto& device : v4l2::list()) (device.capture ? cameras : outputs).insert(device.path);
  for (const auto& card : kms::list()) cards.insert(card.path);
  for (const auto& heap : heap::list()) heaps.insert(heap.name);
  ASSERT_GE(cameras.size(), 2U);
  ASSERT_GE(cards.size(), 4U);
  const json& all = whole();
  EXPECT_EQ(all_of(all["cameras"], "path"), cameras);
  EXPECT_EQ(all_of(all["video_outputs"], "path"), outputs);
  EXPECT_EQ(all_of(all["cards"], "path"), cards);
  EXPECT_EQ(all_of(all["heaps"], "name"), heaps);
  EXPECT_FALSE(all["udmabuf"].contains("error"));
  const auto nodes = all_of(all["gbm"], "path");
  EXPECT_TRUE(std::ranges::includes(nodes, cards));
  EXPECT_TRUE(nodes.contains("/dev/dri/renderD128"));
  ASSERT_EQ(all["vulkan"].size(), must(vulkan::list()).size());
  EXPECT_TRUE(all["vulkan"][0]["name"].get<std::string>().starts_with("llvmpipe"));
}

TEST(Probe, KnowsFormatsSizesRatesModesAndModifiers) {
  if (!in_lab()) GTEST_SKIP() << "the devices are the lab's";
  const json& all = whole();
  const auto formats = all_of(all["cameras"][0]["formats"], "fourcc");
  EXPECT_TRUE(formats.contains("XR24") && formats.contains("YUYV") && formats.contains("NV12"));
  const json& size = all["cameras"][0]["formats"][0]["sizes"][0];
  EXPECT_EQ(size["min"], "320x180");
  EXPECT_GT(size["fastest"].get<double>(), 50);
  for (const json& card : all["cards"]) {
    if (card["driver"] == "vgem") {
      EXPECT_EQ(card["error"]["code"], "ENODEV");
      continue;
    }
    EXPECT_FALSE(card["connectors"][0]["modes"].empty()) << card["driver"];
    const json& primary = *std::ranges::find(card["planes"], json("primary"), [](const json& p) { return p["kind"]; });
    const bool has_modifiers = must(kms::Device::open(card["path"].get<std::string>()))->takes_modifiers();
    observe(card["driver"].get<std::string>() + " takes modifiers", has_modifiers, "docs/kms.md");
    EXPECT_EQ(!primary["formats"][0]["modifiers"].empty(), has_modifiers) << card["driver"];
  }
  EXPECT_EQ(all["vulkan"][0]["formats"][0]["modifiers"][0]["modifier"], "LINEAR");
}

TEST(Probe, EveryRefusalHasItsReason) {
  if (!in_lab()) GTEST_SKIP() << "the devices are the lab's";
  const json& matrix = whole()["matrix"];
  EXPECT_EQ(matrix["cells"].size(), matrix["allocators"].size() * matrix["users"].size());
  int refused = 0;
  for (const json& one : matrix["cells"]) {
    EXPECT_TRUE(one.contains("format") && one["format"] == "XR24") << one;
    if (one["result"] == "yes") continue;
    ++refused;
    ASSERT_EQ(one["result"], "no") << one;
    EXPECT_FALSE(one["reason"]["message"].get<std::string>().empty()) << one;
    EXPECT_FALSE(one["reason"]["operation"].get<std::string>().empty()) << one;
  }
  EXPECT_GT(refused, 0);
}

/// The state of the V4L2 devices and the displays' planes, as other programs would find it.
std::string state_of_the_machine() {
  std::string state;
  for (const auto& device : v4l2::list()) {
    const std::string kind = device.capture ? "" : "-output";
    state += run("v4l2-ctl -d " + device.path + " --get-fmt-video" + (device.capture ? "" : "-out") + " --get" + kind +
                 "-parm --get-selection" + kind + " target=crop --get-selection" + kind + " target=compose --get-" +
                 (device.capture ? "input" : "output") + " 2>&1")
                 .output;
  }
  return state + run("cat /sys/kernel/debug/dri/*/state").output;
}

TEST(Probe, LeavesTheMachineAsItWas) {
  if (!in_lab()) GTEST_SKIP() << "wants displays that nobody else uses";
  const LeakCheck leaks;  // including the kernel's dma-bufs
  const std::string before = state_of_the_machine();
  EXPECT_NE(before.find("Pixel Format"), std::string::npos) << before;
  EXPECT_NE(before.find("crtc"), std::string::npos);
  probe("");
  EXPECT_EQ(state_of_the_machine(), before);
}

TEST(Probe, WhatIsInUseIsReportedAsBusy) {
  if (!in_lab()) GTEST_SKIP() << "the devices are the lab's";
  const auto camera = must(v4l2::Camera::open("/dev/video0"));
  must(camera->set_output(must(camera->offers({.formats = {formats::xrgb8888}})).front()));
  const Layout& layout = camera->output().layout;
  const auto held =
      must(camera->output_allocator()->allocate({.size = layout.size, .format = layout.format, .count = 2}));
  const auto card = must(kms::Device::open("/dev/dri/card0"));
  const json all = probe("");
  int busy = 0;
  for (const json& one : all["matrix"]["cells"]) {
    const bool of_camera = one["allocator"] == "camera:/dev/video0" && one["user"] != "camera:/dev/video0";
    const bool of_display = one["user"] == "display:/dev/dri/card0" && one["allocator"] == "heap:system";
    if (!of_camera && !of_display) continue;
    EXPECT_EQ(one["result"], "busy") << one;
    EXPECT_FALSE(one["reason"]["message"].get<std::string>().empty());
    ++busy;
  }
  EXPECT_GT(busy, 3);
}

TEST(Probe, EndsCleanlyAtCtrlC) {
  if (!in_lab()) GTEST_SKIP() << "wants a probe that takes a while";
  const LeakCheck leaks;
  const Ended ended = run("timeout --preserve-status -s INT 0.7 " DMAFLOW_PROBE " --json 2>&1");
  EXPECT_EQ(ended.status, 130) << ended.output.substr(0, 500);
  EXPECT_EQ(ended.output, "interrupted\n");
}

TEST(Probe, TheTableFitsTheTerminalAndHasNoColoursInAPipe) {
  if (!in_lab()) GTEST_SKIP() << "the devices are the lab's";
  const Ended ended = run(DMAFLOW_PROBE " --format NV12 --size 640x480");
  EXPECT_EQ(ended.status, 0);
  EXPECT_EQ(ended.output.find('\033'), std::string::npos);
  std::istringstream lines(ended.output);
  for (std::string line; std::getline(lines, line);) EXPECT_LE(line.size(), 100U) << line;
  EXPECT_NE(ended.output.find("640x480 NV12 (camera"), std::string::npos) << ended.output;
}

}  // namespace
