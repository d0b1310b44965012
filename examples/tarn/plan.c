/* plan.c - tarn plan: what fits into a device, from config.json alone. */
#include "open.h"
#include "print.h"
#include "result.h"
#include "verbs.h"

#include <inttypes.h>
#include <stdio.h>

static void print_plan(const tarn_plan_report *p, uint64_t device_bytes, uint64_t wanted)
{
    char a[PRINT_TEXT_MAX];
    printf("weights         %s\n", print_bytes(p->weights_bytes, a));
    printf("workspace       %s\n", print_bytes(p->workspace_bytes, a));
    printf("each session    %s\n", print_bytes(p->per_session_bytes, a));
    printf("one session     %s in all\n", print_bytes(p->floor_bytes, a));
    if (wanted > 1)
        printf("%-15" PRIu64 " %s in all\n", wanted, print_bytes(p->wanted_bytes, a));
    if (device_bytes == 0)
        return;
    printf("in %-12s %" PRIu64 " sessions%s\n", print_bytes(device_bytes, a), p->sessions,
           p->fits ? "" : ": does not fit");
}

static json_t *plan_json(const tarn_plan_report *p)
{
    return json_pack("{s:b, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "fits", p->fits, "sessions",
                     result_number(p->sessions), "weights_bytes", result_number(p->weights_bytes),
                     "per_session_bytes", result_number(p->per_session_bytes), "workspace_bytes",
                     result_number(p->workspace_bytes), "floor_bytes",
                     result_number(p->floor_bytes), "wanted_bytes", result_number(p->wanted_bytes),
                     "slots_bytes_max", result_number(p->slots_bytes_max), "pages_bytes_max",
                     result_number(p->pages_bytes_max));
}

int verb_plan(const arguments *args)
{
    opened o = {0};
    tarn_error err = {0};
    tarn_plan_report plan = {.size = sizeof plan};
    tarn_plan_options options = {.size = sizeof options,
                                 .numerics = open_numerics(args),
                                 .device = args->options[OPTION_DEVICE].text,
                                 .device_bytes = args->options[OPTION_DEVICE_BYTES].number,
                                 .context = args->options[OPTION_CONTEXT].number,
                                 .sessions = (uint32_t)args->options[OPTION_SESSIONS].number};
    int code = open_model(args, args->options[OPTION_MODEL].text, 0, &o);
    if (code == 0 && tarn_plan(o.model, &options, &plan, &err) != TARN_OK)
        code = result_error(args, &err);
    if (code == 0 && given(args, OPTION_JSON)) {
        code = result_print(plan_json(&plan), 0);
    } else if (code == 0) {
        print_plan(&plan, options.device_bytes, options.sessions);
        code = result_flush();
    }
    open_close(&o);
    return code;
}
