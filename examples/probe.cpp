// Lists the devices of this machine that handle frames, and which allocators work with which cameras, displays and
// GPUs. Each pair is really tried, and each refusal has its reason.
//
// With --json: the same as one JSON document. With --verdict: one line, which is "hardware: ..." with status 0 if
// camera_to_display would find both a camera and a display, else "lab: ..." with the reason and status 3. The demo uses
// it.
#include "probe_devices.hpp"
#include "probe_matrix.hpp"
#include "probe_print.hpp"
#include "probe_progress.hpp"

#include <dmaflow/dmaflow.hpp>

#include <fmt/core.h>
#include <CLI/CLI.hpp>

#include <cerrno>
#include <cstdlib>
#include <optional>
#include <string>

#include <sys/ioctl.h>
#include <unistd.h>

namespace {

int no(const std::string& reason) {
  fmt::print("lab: {}\n", reason);
  return 3;
}

int verdict(const std::string& camera_path, const std::string& display_path) {
  const auto opened = dmaflow::v4l2::Camera::open(camera_path);
  if (!opened) return no(opened.error().message());
  const auto display = dmaflow::kms::Device::open(display_path);
  if (!display) {
    if (display.error().code() == EBUSY) return no("a compositor holds the display: " + display.error().message());
    return no(display.error().message());
  }
  if (const auto output = (*display)->output(); !output) return no(output.error().message());
  fmt::print("hardware: {} and {}\n", (*opened)->name(), (*display)->name());
  return 0;
}

/// 100 columns if stdout is no terminal or reports no width.
std::size_t terminal_width() {
  winsize size{};
  return ::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col >= 40 ? size.ws_col : 100;
}

/// The user's choice; by default true on a terminal, unless the environment forbids it (https://no-color.org).
bool wants_colours(std::optional<bool> asked) {
  const char* const no_color = std::getenv("NO_COLOR");
  const bool is_unwanted = no_color != nullptr && *no_color != '\0';
  return asked.value_or(!is_unwanted && ::isatty(STDOUT_FILENO) != 0);
}

/// Status 0; 130 if it was asked to stop.
int probe(const MatrixOptions& options, bool wants_json, const Style& style) {
  const auto stop = dmaflow::stop_on_signals();
  if (!stop) {
    fmt::print(stderr, "error: {}\n", stop.error().message());
    return 1;
  }
  Json document;
  Matrix matrix;
  bool is_whole = false;
  {
    Progress progress(stop->get());
    document = look_at_devices(progress);
    matrix = try_matrix(options, progress);
    is_whole = progress.next("done");
  }
  if (!is_whole) {
    fmt::print(stderr, "interrupted\n");
    return 130;
  }
  if (wants_json) {
    document["matrix"] = as_json(matrix);
    fmt::print("{}\n", document.dump(2, ' ', false, Json::error_handler_t::replace));
  } else {
    print_devices(document, style);
    print_matrix(matrix, style);
  }
  return 0;
}

constexpr const char* footer = R"(
The matrix: rows allocate, columns import. "yes", "yes a" (with a remark below the table), "no 1" (refused; the reasons
are below it), "busy 2" (somebody else uses the device). Nothing is left changed: cameras get their formats back, and no
display shows anything, but with --show.

--json: {"heaps": [...], "udmabuf": {...}, "cameras": [...], "video_outputs": [...], "cards": [...], "gbm": [...],
"vulkan": [...], "matrix": {"allocators": [...], "users": [...], "cells": [{"allocator": ID, "user": ID, "result": "yes",
"no" or "busy", "note", "reason": {"message", "operation", "code"}, "format", "modifier", "size"}]}}. A device that
cannot be used has an "error" like a cell's "reason".

Status: 0 also where there is nothing; 3 for a --verdict of "lab"; 130 when interrupted.)";

}  // namespace

int main(int argc, char** argv) {
  std::string camera, display, format, size;
  bool only_verdict = false, wants_json = false;
  std::optional<bool> colour;
  MatrixOptions options;
  Style style{.width = terminal_width()};
  CLI::App app("Says what this machine has for frames, and who can allocate for whom.");
  app.footer(footer);
  app.add_flag("--json", wants_json, "one JSON document on stdout");
  app.add_option("--format", format, "try this format only, such as XR24 or NV12");
  app.add_option("--size", size, "try this size, such as 1280x720");
  app.add_flag(
      "--show", options.may_show,
      "show a buffer on each display that nobody uses, for a moment: says whether its driver moves its memory");
  app.add_flag("--long", style.is_long, "every format and mode");
  app.add_flag("--colour,--color,!--no-colour,!--no-color", colour, "or not; default: on a terminal, without NO_COLOR");
  app.add_flag("--verdict", only_verdict, "one line: whether camera_to_display can run on this machine");
  app.add_option("--camera", camera, "with --verdict: this one");
  app.add_option("--display", display, "with --verdict: this one");
  CLI11_PARSE(app, argc, argv);
  if (only_verdict) return verdict(camera, display);
  if (!format.empty()) {
    options.format = dmaflow::PixelFormat::parse(format);
    if (!options.format) {
      fmt::print(stderr, "error: --format: not a format: {} (such as XR24, NV12, YUYV)\n", format);
      return 2;
    }
  }
  if (!size.empty()) {
    const auto parsed = dmaflow::parse_size(size);
    if (!parsed) {
      fmt::print(stderr, "error: --size: such as 1280x720: {}\n", size);
      return 2;
    }
    options.size = *parsed;
  }
  style.has_colours = wants_colours(colour);
  return probe(options, wants_json, style);
}
