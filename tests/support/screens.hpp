// The lab's displays that can show a camera's memory and whose screen can be captured from outside; found by trying.
#pragma once

#include "kms_support.hpp"

#include <dmaflow/pipeline.hpp>
#include <dmaflow/v4l2.hpp>

#include <string>
#include <vector>

namespace dmaflow::test {

/// Whether the first camera and this display can share memory, according to a pipeline of the two.
inline bool shares_with_the_camera(const std::string& driver) {
  const auto camera = must(v4l2::Camera::open("/dev/video0"));
  const auto card = must(kms::Device::open(card_path(driver)));
  Pipeline pipeline;
  must(pipeline.connect(*camera, *must(must(card->output())->plane())));
  return pipeline.prepare({.size = Size{1280, 720}, .formats = {formats::xrgb8888}}).has_value();
}

/// By driver. Fails the test if there is none.
inline const std::vector<std::string>& shared_screens() {
  static const std::vector<std::string> drivers = [] {
    std::vector<std::string> found;
    for (const char* driver : {"virtio_gpu", "bochs-drm"}) {
      const bool shares = shares_with_the_camera(driver);
      observe(std::string(driver) + " shows memory that a camera writes", shares, "README.md");
      if (shares) found.emplace_back(driver);
    }
    return found;
  }();
  EXPECT_FALSE(drivers.empty()) << "no display of the lab shows what a camera writes";
  return drivers;
}

}  // namespace dmaflow::test
