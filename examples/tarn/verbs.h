/* verbs.h - the verbs, one function each; they return the exit code. */
#ifndef TARN_COMMAND_VERBS_H
#define TARN_COMMAND_VERBS_H

#include "options.h"

int verb_model_show(const arguments *args);
int verb_model_synth(const arguments *args);
int verb_bench_model(const arguments *args);
int verb_tokenize(const arguments *args);
int verb_detokenize(const arguments *args);
int verb_eval(const arguments *args);
int verb_new(const arguments *args);
int verb_append(const arguments *args);
int verb_sync(const arguments *args);
int verb_chat(const arguments *args);
int verb_generate(const arguments *args);
int verb_dump(const arguments *args);
int verb_fork(const arguments *args);
int verb_rewind(const arguments *args);
int verb_ls(const arguments *args);
int verb_log(const arguments *args);
int verb_tree(const arguments *args);
int verb_tokens(const arguments *args);
int verb_rename(const arguments *args);
int verb_rm(const arguments *args);
int verb_verify(const arguments *args);
int verb_export(const arguments *args);
int verb_import(const arguments *args);
int verb_salvage(const arguments *args);
int verb_compact(const arguments *args);
int verb_stat(const arguments *args);
int verb_tag(const arguments *args);
int verb_pin(const arguments *args);
int verb_unpin(const arguments *args);
int verb_ttl(const arguments *args);
int verb_group(const arguments *args);
int verb_quota(const arguments *args);
int verb_gc(const arguments *args);
int verb_explain(const arguments *args);
int verb_plan(const arguments *args);
int verb_bench_sessions(const arguments *args);
int verb_bench_bits(const arguments *args);
int verb_bench_soak(const arguments *args);

#endif
